"""Intervals and tests of right answers, against published values, hand calculation and repeated sampling."""

import json

import numpy as np
import pytest
import scipy.stats

from trm_jax.evaluation import statistics as intervals
from trm_jax.evaluation.statistics import (
    accuracy,
    accuracy_of_runs,
    bootstrap_difference,
    difference_of_runs,
    flips,
    mcnemar,
    paired_difference,
)


def test_intervals_against_published_values():
    """Wilson: 10 of 20 gives 0.299 to 0.701; none of 10 gives 0 to 0.278 (Newcombe 1998, method 3)."""
    half, none = accuracy([True, False] * 10), accuracy([False] * 10)
    assert (round(half.low, 3), round(half.high, 3)) == (0.299, 0.701)
    assert (none.low, round(none.high, 3)) == (0, 0.278)


def test_paired_difference_by_hand():
    """30 gained, 10 lost of 100: (30.5 - 10.5) / 102 with the standard error of that table."""
    right = [True] * 30 + [False] * 10 + [True] * 60
    baseline = [False] * 30 + [True] * 10 + [True] * 60
    found = paired_difference(right, baseline)
    half = 1.959964 * ((30.5 + 10.5 - 20**2 / 102) ** 0.5) / 102
    assert found.estimate == 0.2
    assert found.low == pytest.approx(20 / 102 - half)
    assert found.high == pytest.approx(20 / 102 + half)
    same = paired_difference(right, right)
    assert same.estimate == 0
    assert same.low < 0 < same.high
    assert json.dumps(vars(found))


def test_a_difference_needs_the_same_questions():
    with pytest.raises(ValueError, match="differ in number"):
        paired_difference([True], [True, False])


def test_flips():
    assert flips([True, True, False, False], [False, True, True, False]) == (1, 1)


@pytest.mark.parametrize(("fixed", "broken", "p"), [(0, 0, 1), (5, 5, 1), (6, 0, 2 / 64), (1, 7, 18 / 256)])
def test_mcnemar_by_hand(fixed, broken, p):
    """Twice the binomial tail."""
    assert mcnemar(fixed, broken) == pytest.approx(p)


def test_the_bootstrap_is_as_wide_as_theory_says():
    """Of 400 questions 60 are fixed and 20 broken: standard error sqrt(p_d - d^2) / 20."""
    baseline = np.arange(400) % 2 == 0
    right = baseline.copy()
    right[np.flatnonzero(~baseline)[:60]] = True
    right[np.flatnonzero(baseline)[:20]] = False
    found = bootstrap_difference(right, baseline)
    error = np.sqrt(80 / 400 - 0.1**2) / 20
    assert found.estimate == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert (found.high + found.low) / 2 == pytest.approx(0.1, abs=0.005)


def test_the_bootstrap_holds_the_truth_as_often_as_it_says(monkeypatch):
    """200 pairs of evaluations with a true difference of 0.1: about 95 % of the intervals hold it."""
    monkeypatch.setattr(intervals, "DRAWS", 1000)  # for speed
    rng, held = np.random.default_rng(1), 0
    for number in range(200):
        hard = rng.random(300)
        baseline, right = hard < 0.4 + 0.1 * rng.standard_normal(300), hard < 0.5 + 0.1 * rng.standard_normal(300)
        found = bootstrap_difference(right, baseline, seed=number)
        held += found.low <= 0.1 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_runs_by_hand():
    """Right on the first 18, 20 and 22 of 40 questions: the runs spread by 0.05; a question at either bound is added."""
    right = np.arange(40) < np.array([[18], [20], [22]])
    of_questions = np.var([1] * 18 + [2 / 3] * 2 + [1 / 3] * 2 + [0] * 18 + [0, 1], ddof=1) / 42
    of_runs = 0.05**2 / 3
    freedom = (of_runs + of_questions) ** 2 / (of_runs**2 / 2 + of_questions**2 / 41)
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(of_runs + of_questions)
    found = accuracy_of_runs(right)
    assert found.estimate == 0.5
    assert (found.low, found.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_one_run_has_the_interval_of_its_questions():
    right, baseline = np.arange(20) % 2 == 0, np.arange(20) % 4 == 0
    assert accuracy_of_runs(right[None]) == accuracy(right.tolist())
    assert difference_of_runs(right[None], baseline[None]) == paired_difference(right.tolist(), baseline.tolist())


def test_runs_that_agree_do_not_look_certain():
    all_right = np.ones((3, 50), bool)
    assert accuracy_of_runs(all_right).low < 1
    assert difference_of_runs(all_right, all_right).low < 0 < difference_of_runs(all_right, all_right).high


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_intervals_of_three_runs_hold_the_truth(spread):
    """However much runs differ; resampling three of them holds it in 80 % only where they differ by 10 points."""
    rng, held, held_difference, repetitions = np.random.default_rng(2), 0, 0, 300
    for _ in range(repetitions):
        hard = rng.random(200)
        sides = [hard < np.clip(0.5 + spread * rng.standard_normal((3, 1)), 0.02, 0.98) for _ in range(2)]
        found, difference = accuracy_of_runs(sides[0]), difference_of_runs(*sides)
        held += found.low <= 0.5 <= found.high
        held_difference += difference.low <= 0 <= difference.high
    assert held / repetitions >= 0.92
    assert held_difference / repetitions >= 0.92
