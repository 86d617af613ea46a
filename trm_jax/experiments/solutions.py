"""Solutions that the backbone itself writes: those with the right answer are training data on its own distribution."""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from trm_jax.files import write_whole


def right_solutions(record: dict[str, Any], keep: int) -> Iterator[dict[str, str]]:
    """Rows for training from a graded question, at most `keep` different ones; the right answer stands in a box."""
    samples = record.get("samples", [record])
    texts = dict.fromkeys(sample["text"].strip() for sample in samples if sample["strict"])
    for text in list(texts)[:keep]:
        yield {"question": record["question"], "answer": text}


def write_solutions(path: pathlib.Path, records: Sequence[dict[str, Any]], keep: int) -> dict[str, Any]:
    """Writes the right solutions of all questions as JSON lines, and returns what there is to say of them."""
    kept = [list(right_solutions(record, keep)) for record in records]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for rows in kept for row in rows]
    write_whole(path, "".join(lines))
    samples = [sample for record in records for sample in record.get("samples", [record])]
    return {
        "questions": len(records),
        "questions_without": sum(not rows for rows in kept),
        "samples": len(samples),
        "right": sum(sample["correct"] for sample in samples),
        "right_but_not_boxed": sum(sample["correct"] and not sample["strict"] for sample in samples),
        "solutions": len(lines),
    }
