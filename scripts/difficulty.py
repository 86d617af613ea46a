"""Accuracy against the difficulty of the questions of make_tasks.py: of an ablation's variants, or of a sweep's ways."""

import dataclasses
import pathlib

import tyro

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    files: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Answers of eval_gsm8k.py or ablate.py (.jsonl), whose seeds of one variant are put together, or a sweep's .json."""
    data: pathlib.Path = pathlib.Path("runs/tasks/arrows/test.jsonl")
    """The questions, from make_tasks.py."""
    first_digit: bool = False
    """Grade the first digit of each answer alone, which a single token has to find before others help it."""
    plot: pathlib.Path | None = None
    """Draw it, too: a .png file, with a line for each variant."""


def main(options: Options) -> None:
    from trm_jax.experiments import accuracy_by_difficulty, difficulty_table, plot_difficulty

    if not options.files:
        raise UserError("no files of answers")
    found = accuracy_by_difficulty(options.data, options.files, options.first_digit)
    print(difficulty_table(found))
    if options.plot:
        plot_difficulty(found, options.plot)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
