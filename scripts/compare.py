"""Compares evaluations of eval_gsm8k.py, or of likelihood.py, question by question; the first file is the baseline."""

import dataclasses
import pathlib

import tyro

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    files: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Answers of eval_gsm8k.py (.jsonl), or losses of likelihood.py, at least two files of one kind."""
    output: pathlib.Path | None = None
    """Folder for comparison.md (all questions that flipped too), comparison.png and comparison.json (default: none)."""
    show: int = 3
    """Print so many of the questions that flipped, each way."""
    math_verify: bool = False
    """List the answers that the library math-verify alone grades otherwise."""


def main(options: Options) -> None:
    from trm_jax.evaluation import (
        compare,
        compare_losses,
        comparison_table,
        cross_check,
        holds_losses,
        loss_table,
        read_evaluation,
        read_losses,
        show_flips,
        write_comparison,
        write_losses,
    )

    options.require(0, "show")
    if len(options.files) < 2:
        raise UserError("two files at least: there is nothing to compare one with")
    if any(holds_losses(path) for path in options.files):
        options.refuse("is of answers, and these are losses", "show", "math_verify")
        losses = compare_losses([read_losses(path) for path in options.files])
        print(f"{losses[0].questions} questions are in all files\n\n{loss_table(losses)}")
        if options.output:
            write_losses(losses, options.output)
            print(f"\ntable, plot and figures are in {options.output / 'comparison'}.*")
        return
    evaluations = [read_evaluation(path) for path in options.files]
    found = compare(evaluations)
    shared, most = found[0].questions, max(len(one.answers) for one in evaluations)
    print(f"{shared} questions are in all files" + (f", {most} in the longest" if most > shared else ""))
    print(f"\n{comparison_table(found)}\n\n{show_flips(evaluations, found, options.show)}")
    for one in evaluations if options.math_verify else []:
        others = cross_check(one)
        print(f"\n{one.name}: math-verify grades {len(others)} of {len(one.answers)} answers otherwise")
        for answer in others:
            grade = "right" if answer.correct else "wrong"
            print(f"- {grade} here: {answer.extracted!r}, expected {answer.expected!r}: {answer.question}")
    if options.output:
        write_comparison(evaluations, found, options.output)
        print(f"\ntable, plot and figures are in {options.output / 'comparison'}.*")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
