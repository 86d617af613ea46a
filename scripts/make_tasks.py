"""Writes problems whose answers take depth, train.jsonl and test.jsonl, with a difficulty k beyond training in the test.

permutations: where one of five things ends after k permutations. arrows: where k arrows of a random map lead, from three
places. sudoku: a 4 x 4 Sudoku whose first cell takes k rounds of deduction.
"""

import dataclasses
import pathlib
from typing import Literal

from trm_jax import cli


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    task: Literal["permutations", "arrows", "sudoku"] = "arrows"
    """The kind of problem."""
    output: pathlib.Path | None = None
    """Folder for the two files (default: runs/tasks/TASK)."""
    train: int = 20_000
    """Rows of the training set."""
    test: int = 200
    """Questions of each difficulty in the test."""
    train_k: tuple[int, ...] = ()
    """Difficulties in training, in equal shares (default: 1 to 3; permutations 1 to 4)."""
    test_k: tuple[int, ...] = ()
    """Difficulties in the test (default: permutations 2 to 8, arrows 1 to 6, sudoku 1 to 5)."""
    seed: int = 0
    """Of the problems; whatever it is, no map, permutations or solution of the training set is in the test."""


def main(options: Options) -> None:
    from trm_jax.experiments import write_task

    options.require(1, "train", "test")
    folder = options.output or pathlib.Path("runs/tasks") / options.task
    numbers = {name: getattr(options, name) for name in ("train", "test", "train_k", "test_k", "seed")}
    print(write_task(options.task, folder, **numbers))


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
