"""What counts of right answers allow to say: shares and paired differences with their 95 % intervals, and McNemar's test."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

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
        """As a difference, in percentage points."""
        return f"{100 * self.estimate:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def accuracy(right: Sequence[bool]) -> Interval:
    """The share of right answers with Wilson's score interval."""
    n, share = len(right), sum(right) / len(right)
    center = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return Interval(share, max(0.0, center - half), min(1.0, center + half))


def flips(right: Sequence[bool], baseline: Sequence[bool]) -> tuple[int, int]:
    """How many questions are right here and wrong in the baseline (fixed), and the other way round (broken)."""
    if len(right) != len(baseline):
        raise ValueError(f"paired results differ in number: {len(right)} and {len(baseline)}")
    pairs = list(zip(right, baseline, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def paired_difference(right: Sequence[bool], baseline: Sequence[bool]) -> Interval:
    """How much more is right than in the baseline, on the same questions, with Agresti and Min's 95 % interval.

    Their adjustment (2005) of Wald's interval adds half a question to each of the four cells of the paired table, so that
    few or no disagreements do not look certain.
    """
    fixed, broken = flips(right, baseline)
    n = len(right)
    up, down, size = fixed + 0.5, broken + 0.5, n + 2
    center = (up - down) / size
    half = Z95 * math.sqrt(up + down - (up - down) ** 2 / size) / size
    return Interval((fixed - broken) / n, max(-1.0, center - half), min(1.0, center + half))


def bootstrap_accuracy(right: Bool[np.ndarray, "R n"], seed: int = 0) -> Interval:
    """The share of right answers of R runs on the same n questions; runs and questions are resampled."""
    return _percentiles(right.mean(), _resampled_means(right, *_draw(right.shape[1], seed)))


def bootstrap_difference(right: Bool[np.ndarray, "R n"], baseline: Bool[np.ndarray, "R2 n"], seed: int = 0) -> Interval:
    """How much more is right than in the baseline; the same questions are drawn for both, runs for each.

    With one run a side this is the paired bootstrap; with several, their spread is part of the interval, as far as so few
    runs show it. Percentiles of 10,000 draws.
    """
    questions, rng = _draw(right.shape[1], seed)
    difference = _resampled_means(right, questions, rng) - _resampled_means(baseline, questions, rng)
    return _percentiles(right.mean() - baseline.mean(), difference)


def mcnemar(fixed: int, broken: int) -> float:
    """The probability of so uneven a split, or a more uneven one, of the questions that flipped, were both equally good.

    Exact and two-sided.
    """
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0


def _draw(count: int, seed: int):
    """How often each question is drawn, [DRAWS, n], and the generator to go on with."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), DRAWS).astype(np.float32), rng


def _resampled_means(right, questions, rng):
    runs = rng.multinomial(len(right), np.full(len(right), 1 / len(right)), DRAWS) / len(right)
    by_run = questions @ right.T.astype(np.float32) / right.shape[1]  # [DRAWS, R]
    return np.sum(by_run * runs, axis=1)


def _percentiles(estimate, draws) -> Interval:
    return Interval(float(estimate), *map(float, np.quantile(draws, [0.025, 0.975])))
