"""Kills conversions, trainings and evaluations of the demo in every phase, starts them again, and compares how they end.

SIGKILL and SIGTERM take turns. After each kill, what was saved before must still be whole; in the end everything must be,
bit for bit, what a run left alone gives. Exit status 1 if it is not.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Literal, get_args

from trm_jax import cli

Phase = Literal["converting", "tokenising", "compiling", "training", "saving", "saved", "evaluating"]


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    kills: int = 4
    """In each phase."""
    phases: tuple[Phase, ...] = get_args(Phase)
    """Of which job to kill when."""
    max_batches: int = 120
    """Batches of the trainings."""
    seed: int = 0
    """Seed of the moments."""


def main(options: Options) -> None:
    from trm_jax.experiments import JobError, kill_runs

    options.require(1, "kills", "max_batches")
    scripts, say = pathlib.Path(__file__).parent, functools.partial(print, flush=True)
    try:
        outcome = kill_runs(scripts, options.phases, options.kills, options.max_batches, options.seed, say)
    except JobError as error:
        sys.exit(str(error))
    print(outcome.describe())
    if outcome.faults:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
