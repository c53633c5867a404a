"""Which training rows the `base` baseline takes its means from."""

import tracemalloc

import numpy as np

from tunesmith.stages import evaluate


def test_a_hundred_rows_of_each_label_drawn_from_all():
    labels = np.repeat([0, 1, 3], [450, 30, 250])
    chosen = evaluate._some_of_each(labels, 0)
    assert (np.diff(chosen) > 0).all() and np.bincount(labels[chosen]).tolist() == [100, 30, 0, 100]
    assert 150 < chosen[labels[chosen] == 0].mean() < 300  # of all 450 rows, not of the first
    assert np.array_equal(chosen, evaluate._some_of_each(labels, 0)) and not np.array_equal(chosen, evaluate._some_of_each(labels, 1))


def test_of_several_labels_each_has_its_hundred():
    labels = np.random.default_rng(0).random((900, 3)) < [0.5, 0.02, 0.9]
    chosen = evaluate._some_of_each(labels, 0)
    counts = labels[chosen].sum(0)
    assert counts[0] >= 100 and counts[1] == labels[:, 1].sum() and counts[2] >= 100 and len(chosen) <= 200 + counts[1]


def test_many_labels_take_no_matrix():
    labels = np.arange(100_000) % 5000
    tracemalloc.start()
    chosen = evaluate._some_of_each(labels, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(chosen) == 100_000 and peak < 20e6
