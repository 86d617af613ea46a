"""A data set through generation, graded, one JSON line a question; an interrupted run continues where it stopped."""

import collections
import contextlib
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from trm_jax.data.answers import find_answer, majority, reference_answer, same_answer
from trm_jax.data.examples import encode_prompts
from trm_jax.decoding.generate import Answer
from trm_jax.errors import UserError, differences, listing
from trm_jax.evaluation.statistics import accuracy
from trm_jax.files import lock_beside, locked, read_lines, read_object, write_whole

# What every record holds.
RECORD = (
    "index",
    "question",
    "expected",
    "text",
    "extracted",
    "form",
    "correct",
    "strict",
    "tokens",
    "steps",
    "seconds",
)
# Prompts to answers, as they end: `generate_each` with its settings.
Generate = Callable[[list[list[int]]], Iterator[Answer]]


class EvaluationError(UserError):
    """An output file that does not belong to this evaluation."""


def evaluate(
    rows: Sequence[dict[str, str]],
    tokenizer,
    generate: Generate,
    output: pathlib.Path | None = None,
    settings: dict[str, Any] | None = None,
    samples: int = 1,
    progress: Callable[..., Iterable] = lambda answers, total: answers,
) -> list[dict[str, Any]]:
    """Answers and grades every question.

    Args:
        rows: `question` and `answer` (with its `####` line or box).
        output: a file that gets one JSON line a question, as they are answered; lines that it holds already are kept.
        settings: noted in the summary beside the output, for `require_same_settings` to compare when the evaluation goes on.
        samples: answers that `generate` gives to each question; the answer that most of them end in is graded.
        progress: wraps the iteration over questions, `total` of them.

    Returns one record a question, in the order of `rows`, as `grade` makes it; its seconds are those since the question
    before was done. Raises EvaluationError if the file's questions are others, BusyError if another process writes it.
    """
    with locked(lock_beside(output), output) if output else contextlib.nullcontext():
        done = read_records(output, rows) if output else {}
        prompts = encode_prompts(tokenizer, [row["question"] for row in rows])
        todo = [index for index in range(len(rows)) if index not in done]
        finished = _by_question(generate([prompts[index] for index in todo]), samples)
        started = time.perf_counter()
        for number, answers in progress(finished, total=len(todo)):
            now = time.perf_counter()
            index = todo[number]
            texts = [tokenizer.decode(answer.tokens, skip_special_tokens=True) for answer in answers]
            done[index] = grade(index, rows[index], texts, answers, now - started)
            started = now
            if output:
                _append(output, done[index], settings or {})
        return [done[index] for index in range(len(rows))]


def _append(output: pathlib.Path, record: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes a record; before the first one, the settings beside it."""
    if not output.exists():
        write_whole(output.with_suffix(".json"), json.dumps(settings, indent=2) + "\n")
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _by_question(answers: Iterable[Answer], samples: int) -> Iterator[tuple[int, list[Answer]]]:
    """All samples of a question, in their order, as soon as the last one has ended."""
    waiting = collections.defaultdict(list)
    for answer in answers:
        waiting[answer.prompt].append(answer)
        if len(waiting[answer.prompt]) == samples:
            yield answer.prompt, sorted(waiting.pop(answer.prompt), key=lambda answer: answer.sample)


def file_name(settings: dict[str, Any]) -> str:
    """Of the records of an evaluation with these settings."""
    words = "-".join(pathlib.Path(str(value)).stem for value in settings.values())
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', words)}.jsonl"


def require_jsonl(path: pathlib.Path) -> None:
    """Raises EvaluationError for a file that its own summary, NAME.json, could overwrite."""
    if path.suffix != ".jsonl":
        raise EvaluationError(f"{path} must end in .jsonl: it holds one JSON line a question")


def require_same_settings(path: pathlib.Path, settings: dict[str, Any]) -> None:
    """Raises EvaluationError if the file is of an evaluation with other settings, which a summary beside it notes."""
    require_jsonl(path)
    summary = path.with_suffix(".json")
    if path.exists() and summary.exists():
        found = read_object(summary, EvaluationError)
        if others := differences(found, settings):
            raise EvaluationError(f"{path} is of another evaluation; give another --output: {listing(others)}")


def grade(
    index: int, row: dict[str, str], texts: Sequence[str], answers: Sequence[Answer], seconds: float
) -> dict[str, Any]:
    """What is written of a question: the sample that wins the vote, and all samples where there are several.

    `form` tells how the answer was stated, see `find_answer`; `correct` counts any form, `strict` only boxed answers.
    `tokens` are new ones, of all samples; `steps` the supervision steps that a token took on average, `token_steps` those
    of each token of the winning sample, where they differ.
    """
    expected = reference_answer(row["answer"])
    samples = [_grade_text(text, expected) for text in texts]
    winner = majority([sample["extracted"] for sample in samples])
    steps = [step for answer in answers for step in answer.steps]
    record = {
        "index": index,
        "question": row["question"],
        "expected": expected,
        **samples[winner],
        "tokens": len(steps),
        "steps": sum(steps) / len(steps),
        "seconds": seconds,
    }
    if len(set(steps)) > 1:
        record["token_steps"] = answers[winner].steps
    if len(samples) > 1:
        record["samples"] = samples
    return record


def _grade_text(text: str, expected: str | None) -> dict[str, Any]:
    found = find_answer(text)
    correct = found is not None and same_answer(found.text, expected)
    return {
        "text": text,
        "extracted": found and found.text,
        "form": found and found.form,
        "correct": correct,
        "strict": correct and found.form == "boxed",
    }


def read_records(path: pathlib.Path, rows: Sequence[dict[str, str]]) -> dict[int, dict[str, Any]]:
    """The records that a file holds of these rows, by index; a last line cut short by a kill is removed from the file.

    Raises EvaluationError, naming the line.
    """
    if not path.exists():
        return {}
    whole = path.read_bytes()
    if not whole.endswith(b"\n"):
        write_whole(path, whole[: whole.rfind(b"\n") + 1])
    records = {}
    for number, record in read_lines(path, EvaluationError):
        if missing := [name for name in RECORD if name not in record]:
            raise EvaluationError(f"{path}, line {number} lacks {listing(missing)}: it is no record of this version")
        index = record["index"]
        if not isinstance(index, int) or index < 0:
            raise EvaluationError(f"{path}, line {number} has the index {index!r:.80}: it is no record of this version")
        if index < len(rows):
            row = rows[index]
            if (record["question"], record["expected"]) != (row["question"], reference_answer(row["answer"])):
                raise EvaluationError(f"{path} holds answers to other questions: give another --output, or remove it")
            records[index] = record
    return records


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy with its 95 % interval, how answers were stated, and speed (compilation included)."""
    seconds, tokens = (sum(record[name] for record in records) for name in ("seconds", "tokens"))
    interval = accuracy([record["correct"] for record in records])
    forms = collections.Counter(record["form"] or "none" for record in records)
    summary = {
        "questions": len(records),
        "correct": sum(record["correct"] for record in records),
        "accuracy": interval.estimate,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "strict": sum(record["strict"] for record in records),
        "forms": dict(forms.most_common()),
        "seconds_per_sample": seconds / len(records),
        "tokens_per_second": tokens / seconds,
        "steps_per_token": sum(record["steps"] * record["tokens"] for record in records) / tokens,
    }
    every = [sample["correct"] for record in records for sample in record.get("samples", [])]
    if every:
        summary["sample_accuracy"] = sum(every) / len(every)
    return summary
