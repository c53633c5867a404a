"""How often each label's rows are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.augmentation.balance import BalanceSettings, factors

SIZES = {"big": 30, "middle": 10, "small": 4, "none": 0}


@pytest.mark.parametrize(
    ("how", "ratio", "expected"),
    [
        ("over", 1.0, {"middle": 3.0, "small": 7.5}),
        ("over", 0.5, {"middle": 1.5, "small": 3.75}),
        ("over", 0.1, {}),
        ("under", 1.0, {"big": 4 / 30, "middle": 0.4}),
        ("under", 0.2, {"big": 20 / 30}),
    ],
)
def test_labels_get_their_share(how: str, ratio: float, expected: dict[str, float]) -> None:
    assert factors(SIZES, BalanceSettings(how=how, ratio=ratio)) == pytest.approx(expected)


def test_a_row_is_not_repeated_without_end() -> None:
    assert factors(SIZES, BalanceSettings(how="over", most_repeats=3)) == {"middle": 3.0, "small": 3}


def test_nothing_is_done_by_default_or_without_labels() -> None:
    assert factors(SIZES, BalanceSettings()) == {} == factors({}, BalanceSettings(how="over"))


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 1000), min_size=1, max_size=8), st.sampled_from(["over", "under"]), st.floats(0.01, 1))
def test_no_label_passes_the_largest_or_falls_below_the_smallest(counts: dict[str, int], how: str, ratio: float) -> None:
    found = factors(counts, BalanceSettings(how=how, ratio=ratio))
    after = {label: count * found.get(label, 1.0) for label, count in counts.items()}
    assert all(min(counts.values()) - 1e-6 <= size <= max(counts.values()) + 1e-6 for size in after.values())
    assert all(factor > 1 if how == "over" else factor < 1 for factor in found.values())
