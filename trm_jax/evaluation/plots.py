"""Plots of what comparisons find."""

import pathlib
from collections.abc import Sequence

from trm_jax.evaluation.statistics import Interval


def error_bars(intervals: Sequence[Interval], unit: float = 0.01) -> tuple[list[float], list[float]]:
    """How far each interval reaches below and above its estimate, in units of `unit`, as matplotlib takes it.

    Example: `axes.errorbar(places, shares, yerr=error_bars(intervals))`.
    """
    below = [(interval.estimate - interval.low) / unit for interval in intervals]
    return below, [(interval.high - interval.estimate) / unit for interval in intervals]


def plot_against_first(
    names: Sequence[str],
    values: tuple[str, Sequence[Interval]],
    differences: tuple[str, Sequence[Interval]],
    path: pathlib.Path,
    unit: float = 1,
) -> None:
    """Two panels side by side, each with a label and an interval for each name: values, and differences to the first.

    Intervals are drawn in units of `unit`, such as 0.01 for percent.

    Example: `plot_against_first(names, ("right, %", shares), ("difference, points", differences), path, unit=0.01)`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.4 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, (label, intervals) in ((left, values), (right, differences)):
        estimates = [interval.estimate / unit for interval in intervals]
        bars = error_bars(intervals, unit)
        axes.errorbar(estimates, range(len(names)), xerr=bars, fmt="o", capsize=3, color="tab:blue")
        axes.set(xlabel=label)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    right.axvline(0, color="grey", linewidth=1)
    figure.savefig(path, dpi=120)
