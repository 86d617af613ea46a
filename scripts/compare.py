"""Compares evaluations of eval_gsm8k.py question by question; the first file is what the others are compared with."""

import dataclasses
import json
import pathlib

import tyro

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    files: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Answers (.jsonl), at least two files."""
    output: pathlib.Path | None = None
    """Folder for comparison.md (all questions that flipped too), comparison.png and comparison.json (default: none)."""
    show: int = 3
    """Print so many of the questions that flipped, each way."""
    math_verify: bool = False
    """List the answers that the library math-verify grades otherwise (pip install -e '.[verify]')."""


def main(options: Options) -> None:
    from trm_jax.evaluation import compare

    options.require(0, "show")
    if len(options.files) < 2:
        raise UserError("two files at least: there is nothing to compare one with")
    evaluations = [compare.read_evaluation(path) for path in options.files]
    found = compare.compare(evaluations)
    shared, most = len(compare.shared_questions(evaluations)), max(len(one.records) for one in evaluations)
    table = compare.markdown(found)
    print(f"{shared} questions are in all files" + (f", {most} in the longest" if most > shared else ""))
    print(f"\n{table}\n\n{compare.show_flips(evaluations, found, options.show)}")
    for one in evaluations if options.math_verify else []:
        others = compare.cross_check(one)
        print(f"\n{one.name}: math-verify grades {len(others)} of {len(one.records)} answers otherwise")
        for record in others:
            grade = "right" if record["correct"] else "wrong"
            print(f"- {grade} here: {record['extracted']!r}, expected {record['expected']!r}: {record['question']}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / "comparison"
        path.with_suffix(".md").write_text(f"{table}\n\n{compare.show_flips(evaluations, found)}\n")
        path.with_suffix(".json").write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=1) + "\n")
        compare.plot(found, path.with_suffix(".png"))
        print(f"\ntable, plot and figures are in {path}.*")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
