"""Pieces done by several processes: in order, the same as by one, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core import workers
from tunesmith.core.errors import UserError
from tunesmith.core.workers import Crew, Message


class Squares:
    """What a piece of work is here; helpers import this module."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __call__(self, piece: Any) -> Any:
        if piece == "process":
            time.sleep(0.02)
            return os.getpid()
        if piece == "print":
            print("a word on standard output")
        if piece == "wrong":
            raise UserError("what", "where", "remedy")
        if piece == "odd":
            raise ValueError("an error of ours")
        return self.start + piece**2 if isinstance(piece, int) else piece

    def send(self, piece: Any) -> Message | None:
        return Message(piece, []) if piece != "here" else None

    def receive(self, message: Message) -> Any:
        return message.value

    def reply(self, result: Any) -> Message:
        return Message(result, [b"", str(result).encode()])

    def result(self, message: Message) -> Any:
        assert [b"", str(message.value).encode()] == message.blobs
        return message.value


def crew_of(start: int, count: int) -> Crew:
    return Crew(Squares(start), "test_crew:Squares", {"start": start}, count)


def ready(of: Crew) -> Iterator[int]:
    """Pieces until all helpers have begun."""
    while len(of._ready) < len(of._helpers):
        time.sleep(0.01)
        yield 0


def done(helper: Any, piece: Any) -> Any:
    return helper.done(Message(piece, [])).value


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_results_come_in_order_whoever_does_them(count: int) -> None:
    before = sys.getswitchinterval(), gc.get_freeze_count()
    with crew_of(5, count) as all_:
        list(all_.each(ready(all_)))
        assert list(all_.each(range(200))) == [5 + one**2 for one in range(200)]
        assert list(all_.each([])) == [] and list(all_.each([3])) == [14]
    assert (sys.getswitchinterval(), gc.get_freeze_count()) == before


def test_this_process_works_too() -> None:
    with crew_of(0, 1) as two:
        list(two.each(ready(two)))
        processes = set(two.each(["process"] * 20))
    assert len(processes) == 2 and os.getpid() in processes


def test_what_json_does_not_hold_is_done_here() -> None:
    with crew_of(0, 1) as two:
        list(two.each(ready(two)))
        assert list(two.each(["here"] * 20)) == ["here"] * 20


def test_what_is_printed_disturbs_nothing() -> None:
    with crew_of(0, 1) as two:
        list(two.each(ready(two)))
        assert list(two.each(["print"] * 20)) == ["print"] * 20


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(("piece", "kind", "text"), [("wrong", UserError, "where: what\n  -> remedy"), ("odd", ValueError, "an error of ours")])
def test_an_error_comes_in_the_place_of_its_result(count: int, piece: str, kind: type[Exception], text: str) -> None:
    got = []
    with crew_of(0, count) as all_, pytest.raises(kind) as caught:
        list(all_.each(ready(all_)))
        for one in all_.each([*range(10), piece, *range(10)]):
            got.append(one)
    assert str(caught.value) == text and got == [one**2 for one in range(10)]


def test_work_goes_on_without_a_helper_that_is_killed() -> None:
    def pieces() -> Iterator[Any]:
        yield from ready(two)
        yield from range(5)
        os.kill(two._helpers[0]._process.pid, signal.SIGKILL)
        yield from range(500)

    with crew_of(0, 1) as two:
        found = list(two.each(pieces()))
        assert two._ready == []
    expected = [one**2 for one in [*range(5), *range(500)]]
    assert found[-len(expected) :] == expected and not any(found[: -len(expected)])


def test_helpers_go_with_the_context_and_heed_no_interrupt() -> None:
    with crew_of(0, 1) as two:
        list(two.each(ready(two)))
        process = two._helpers[0]._process
        assert done(two._helpers[0], 1) == 1  # it has begun
        process.send_signal(signal.SIGINT)
        assert done(two._helpers[0], 7) == 49 and process.poll() is None
    assert process.poll() == -signal.SIGKILL


def test_a_helper_ends_with_the_process_that_began_it() -> None:
    with crew_of(0, 1) as two:
        list(two.each(ready(two)))
        helper = two._helpers[0]
        assert done(helper, 2) == 4
        assert helper._process.stdin is not None
        helper._process.stdin.close()  # as the system does when a process is killed
        assert helper._process.wait(10) == 0


def test_without_more_processes_this_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*given: Any, **more: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(workers.subprocess, "Popen", none)
    with crew_of(1, 2) as one:
        assert list(one.each(range(4))) == [1, 2, 5, 10]


def test_as_many_helpers_as_there_are_cores_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 0), (2, 1), (4, 3), (64, workers.MOST_HELPERS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert workers.helpers() == expected
