"""Statistics of right answers: shares and paired differences with their 95 % intervals, and McNemar's test."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest, bootstrap
from scipy.stats import t as student_t

Z95 = 1.959964  # two-sided 95 % quantile of the normal distribution
DRAWS = 10_000  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.estimate:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def points(self) -> str:
        """The interval of a difference as a text, in percentage points."""
        return f"{100 * self.estimate:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def nats(self, sign: str = "") -> str:
        """The interval of a loss as a text, in nats; with `sign` "+" that of a difference."""
        return f"{self.estimate:{sign}.4f} [{self.low:{sign}.4f}, {self.high:{sign}.4f}]"


def accuracy(right: Sequence[bool]) -> Interval:
    """The share of right answers with Wilson's score interval.

    Example: `str(accuracy([True, True, False]))` is `66.7 % [20.8, 93.9]`.
    """
    found = binomtest(int(sum(right)), len(right))
    low, high = found.proportion_ci(method="wilson")
    return Interval(found.statistic, float(low), float(high))


def flips(right: Sequence[bool], baseline: Sequence[bool]) -> tuple[int, int]:
    """How many questions are right here and wrong in the baseline (fixed), and the other way round (broken)."""
    if len(right) != len(baseline):
        raise ValueError(f"paired results differ in number: {len(right)} and {len(baseline)}")
    pairs = list(zip(right, baseline, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def paired_difference(right: Sequence[bool], baseline: Sequence[bool]) -> Interval:
    """The accuracy minus the baseline's, on the same questions, with Agresti and Min's 95 % interval.

    Their adjustment (2005) of Wald's interval adds half a question to each of the four cells of the paired table, so that
    few or no disagreements do not look certain.

    Example: `paired_difference([True, True], [True, False]).points()`.
    """
    fixed, broken = flips(right, baseline)
    n = len(right)
    up, down, size = fixed + 0.5, broken + 0.5, n + 2
    center = (up - down) / size
    half = Z95 * math.sqrt(up + down - (up - down) ** 2 / size) / size
    return Interval((fixed - broken) / n, max(-1.0, center - half), min(1.0, center + half))


def bootstrap_difference(right: Bool[np.ndarray, " n"], baseline: Bool[np.ndarray, " n"], seed: int = 0) -> Interval:
    """The accuracy minus the baseline's, on the same questions; the interval is from 10,000 draws of the questions."""
    differences = right.astype(np.float32) - baseline
    found = bootstrap((differences,), np.mean, n_resamples=DRAWS, batch=100, method="percentile", rng=seed)
    return Interval(float(differences.mean()), *map(float, found.confidence_interval))


def loss_per_token(losses: Float[np.ndarray, " n"], tokens: Int[np.ndarray, " n"]) -> Interval:
    """The losses of n questions over all of their tokens, or a paired difference of losses, nats a token.

    It is a ratio of sums over questions, whose 95 % interval is the linearised one (Taylor series) with Student's t: a
    question counts as one draw, because its tokens are not independent. For one question there is none.

    Example: `loss_per_token(of_head - of_backbone, tokens).nats("+")`.
    """
    count, total = len(losses), float(np.sum(tokens))
    ratio = float(np.sum(losses)) / total
    if count == 1:
        return Interval(ratio, math.nan, math.nan)
    variance = count / (count - 1) * float(np.sum((losses - ratio * tokens) ** 2)) / total**2
    half = float(student_t.ppf(0.975, count - 1)) * math.sqrt(variance)
    return Interval(ratio, ratio - half, ratio + half)


def accuracy_of_runs(right: Bool[np.ndarray, "R n"]) -> Interval:
    """The share of right answers of R runs on the same n questions; the runs' spread is part of the interval.

    The interval is Student's t with Welch and Satterthwaite's degrees of freedom: it is wide for three runs, which hardly
    tell how much runs differ. For one run it is Wilson's.

    Example: `accuracy_of_runs(np.array([[True, False], [True, True]]))`.
    """
    if len(right) == 1:
        return accuracy(right[0].tolist())
    return _student(right.mean(), [_of_questions(right.mean(axis=0), 0, 1), _of_runs(right)], 0, 1)


def difference_of_runs(right: Bool[np.ndarray, "R n"], baseline: Bool[np.ndarray, "R2 n"]) -> Interval:
    """The accuracy of R runs minus that of R2 baseline runs, on the same n questions.

    The interval includes the spread of both sides' runs, as in `accuracy_of_runs`; with one run a side it is Agresti and
    Min's.

    Example: `difference_of_runs(right, baseline).points()`.
    """
    if len(right) == len(baseline) == 1:
        return paired_difference(right[0].tolist(), baseline[0].tolist())
    differences = right.mean(axis=0) - baseline.mean(axis=0)
    parts = [_of_questions(differences, -1, 1), *(_of_runs(side) for side in (right, baseline) if len(side) > 1)]
    return _student(differences.mean(), parts, -1, 1)


def _of_questions(values: Float[np.ndarray, " n"], least: float, most: float) -> tuple[float, int]:
    """The squared standard error of the mean over questions, and its degrees of freedom.

    A question at either bound is added, so that values that are all alike do not look certain.
    """
    values = np.append(values, [least, most])
    return values.var(ddof=1) / len(values), len(values) - 1


def _of_runs(right: Bool[np.ndarray, "R n"]) -> tuple[float, int]:
    return right.mean(axis=1).var(ddof=1) / len(right), len(right) - 1


def _student(estimate: float, parts: Sequence[tuple[float, int]], least: float, most: float) -> Interval:
    square = sum(part for part, _ in parts)
    freedom = square**2 / sum(part**2 / own for part, own in parts)
    half = float(student_t.ppf(0.975, freedom)) * math.sqrt(square)
    return Interval(float(estimate), max(least, float(estimate) - half), min(most, float(estimate) + half))


def mcnemar(fixed: int, broken: int) -> float:
    """The p-value of McNemar's test, exact and two-sided.

    It is the probability that the flipped questions split at least so unevenly if both evaluations are equally good.
    """
    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
