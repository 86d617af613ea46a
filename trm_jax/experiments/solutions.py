"""Solutions that the backbone itself writes: those with the right answer are training data on its own distribution."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trm_jax.data import Row, without_next_question
from trm_jax.errors import UserError
from trm_jax.evaluation import GradedAnswer, GradedText, require_jsonl
from trm_jax.files import read_object, write_whole


def samples_file(output: pathlib.Path) -> pathlib.Path:
    """The file beside `output` that all samples are kept in. Raises a UserError if `output` holds something else.

    Example: `samples_file(pathlib.Path("own.jsonl")).name` is `"own.samples.jsonl"`.
    """
    require_jsonl(output)
    drawn = output.with_suffix(".samples.jsonl")
    for path in (output, output.with_suffix(".json")):
        if path.exists() and not drawn.exists():
            raise UserError(f"{path} holds something else than solutions drawn here: give another --output")
    return drawn


def right_solutions(answer: GradedAnswer, keep: int) -> Iterator[Row]:
    """At most `keep` different solutions of a graded question, as rows for training; each has the right answer in a box.

    What comes behind the answer would be learned, too: of a sample that goes on with another question that is left out,
    and one that was cut at the limit of tokens is none.
    """
    right = (sample for sample in answer.every_sample if sample.strict and not _is_cut(sample))
    texts = dict.fromkeys(without_next_question(sample.text).strip() for sample in right)
    for text in list(texts)[:keep]:
        yield {"question": answer.question, "answer": text}


def _is_cut(sample: GradedText) -> bool:
    """Whether a solution was cut, and not only another question behind it."""
    return sample.cut and without_next_question(sample.text) == sample.text


def write_solutions(path: pathlib.Path, answers: Sequence[GradedAnswer], keep: int, settings: Mapping[str, Any]) -> str:
    """Writes the right solutions of all questions as JSON lines, and settings and counts beside them.

    A file of more questions stays as it is. Returns the counts for a person.

    Example: `print(write_solutions(path, evaluate(rows, tokenizer, generate, samples=4), keep=4, settings={}))`.
    """
    summary = path.with_suffix(".json")
    before = read_object(summary, UserError).get("questions", 0) if path.exists() and summary.exists() else 0
    if isinstance(before, int) and before > len(answers):
        return (
            f"{path} stays as it is, with solutions of {before:,} questions: these are the first {len(answers):,} of them, "
            "for which another --output is needed"
        )
    kept = [list(right_solutions(answer, keep)) for answer in answers]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for rows in kept for row in rows]
    write_whole(path, "".join(lines))
    samples = [sample for answer in answers for sample in answer.every_sample]
    counts = {
        "questions": len(answers),
        "questions_without": sum(not rows for rows in kept),
        "drawn": len(samples),
        "right": sum(sample.correct for sample in samples),
        "right_but_not_boxed": sum(sample.correct and not sample.strict for sample in samples),
        "right_but_cut": sum(sample.strict and _is_cut(sample) for sample in samples),
        "solutions": len(lines),
    }
    write_whole(summary, json.dumps({**settings, **counts}, indent=2) + "\n")
    return (
        f"{counts['right']:,} of {counts['drawn']:,} samples are right, {counts['right_but_not_boxed']:,} of them without "
        f"a box, and {counts['right_but_cut']:,} cut at the limit of tokens\n"
        f"{counts['questions_without']:,} of {counts['questions']:,} questions have no right solution\n"
        f"{counts['solutions']:,} different right solutions are in {path}"
    )
