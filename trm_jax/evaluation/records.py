"""Graded answers, and the files that hold one of them a line."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

import pydantic
from pydantic import Field, StrictBool

from trm_jax.data import Row, find_answer, majority, reference_answer, same_answer
from trm_jax.decoding import Completion
from trm_jax.errors import UserError, listing
from trm_jax.files import read_lines, read_object, write_whole

_log = logging.getLogger(__name__)


class EvaluationError(UserError):
    """A file that does not hold answers, or not those of this evaluation, or an evaluation that cannot be done."""


@dataclasses.dataclass(frozen=True)
class GradedText:
    """One text that was generated, and the answer found in it."""

    text: str
    extracted: str | None
    form: str | None  # how the answer was stated, see `find_answer`
    correct: StrictBool  # in any form
    strict: StrictBool  # correct, and in a box
    # Whether it ends at the limit of tokens; former versions did not record it.
    cut: StrictBool = dataclasses.field(default=False, kw_only=True)

    @classmethod
    def of(cls, text: str, expected: str | None, cut: bool = False) -> Self:
        r"""Grades a text against the answer that is expected.

        Example: `GradedText.of(r"so \boxed{4}", "4").correct`.
        """
        found = find_answer(text)
        correct = found is not None and same_answer(found.text, expected)
        strict = correct and found.form == "boxed"
        return cls(text, found and found.text, found and found.form, correct, strict, cut=cut)


@dataclasses.dataclass(frozen=True)
class GradedAnswer(GradedText):
    """A question, and the one of its samples whose answer won the vote."""

    index: Annotated[int, Field(ge=0, strict=True)]  # of the question, in its data set
    question: str
    expected: str | None
    tokens: int  # new ones, of all samples
    steps: float  # supervision steps that a token took on average
    seconds: float  # between this question's end and that of the one that ended before
    token_steps: tuple[int, ...] | None = None  # of each token of the winning sample, if they differ
    samples: tuple[GradedText, ...] | None = None  # all of them, where there are several

    @property
    def every_sample(self) -> tuple[GradedText, ...]:
        """All samples, even if there is only one."""
        return self.samples or (self,)

    @classmethod
    def grade(
        cls, index: int, row: Row, texts: Sequence[str], completions: Sequence[Completion], seconds: float
    ) -> Self:
        """Grades the samples of a question; the answer that most of them give counts."""
        expected = reference_answer(row["answer"])
        pairs = zip(texts, completions, strict=True)
        samples = tuple(GradedText.of(text, expected, not completion.ended) for text, completion in pairs)
        winner = majority([sample.extracted for sample in samples])
        steps = [step for completion in completions for step in completion.steps]
        return cls(
            **vars(samples[winner]),
            index=index,
            question=row["question"],
            expected=expected,
            tokens=len(steps),
            steps=sum(steps) / len(steps),
            seconds=seconds,
            token_steps=tuple(completions[winner].steps) if len(set(steps)) > 1 else None,
            samples=samples if len(samples) > 1 else None,
        )

    @classmethod
    def not_asked(cls, index: int, row: Row) -> Self:
        """The wrong answer to a question that is too long to be asked."""
        nothing = GradedText.of("", None)
        expected = reference_answer(row["answer"])
        return cls(
            **vars(nothing), index=index, question=row["question"], expected=expected, tokens=0, steps=0.0, seconds=0.0
        )

    def to_json(self) -> dict[str, Any]:
        """The object of one line of a file; OPTIONAL fields that are None are left out."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None or name not in OPTIONAL}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Reads a line back. Raises EvaluationError, naming `where` it stands, if it is no record of this version."""
        try:
            return _adapter(cls).validate_python(values)
        except pydantic.ValidationError as error:
            faults = error.errors()
        if missing := [".".join(map(str, fault["loc"])) for fault in faults if fault["type"] == "missing"]:
            raise EvaluationError(f"{where} lacks {listing(missing)}: it is no record of eval_gsm8k.py")
        place, fault = ".".join(map(str, faults[0]["loc"])), faults[0]
        raise EvaluationError(
            f"{where} has {fault['input']!r:.80} as {place}: it is no record of eval_gsm8k.py ({fault['msg']})"
        )


OPTIONAL = ("token_steps", "samples")
_adapter = functools.cache(pydantic.TypeAdapter)


def read_answers(path: pathlib.Path) -> Iterator[tuple[str, GradedAnswer]]:
    """The answers in a file, each with the place where it stands. Raises EvaluationError, naming the line."""
    for number, values in read_lines(path, EvaluationError):
        where = f"{path}, line {number}"
        yield where, GradedAnswer.from_json(values, where)


def read_answers_to(path: pathlib.Path, rows: Sequence[Row]) -> dict[int, GradedAnswer]:
    """The answers that a file holds to these rows and to others behind them, by index.

    A last line cut short by a kill is removed from the file.

    Raises EvaluationError, naming the line.
    """
    if not path.exists():
        return {}
    remove_cut_line(path)
    found = {}
    for _, answer in read_answers(path):
        if answer.index < len(rows):
            row = rows[answer.index]
            if (answer.question, answer.expected) != (row["question"], reference_answer(row["answer"])):
                raise EvaluationError(f"{path} holds answers to other questions: give another --output, or remove it")
        found[answer.index] = answer
    return found


def is_summary_of_more(path: pathlib.Path, indices: Collection[int], rows: int, found: int) -> bool:
    """Whether the summary beside a file stays: the file has answers behind those to `rows`, and it counts more than `found`.

    `indices` are those of all its answers. That the summary stays is logged.
    """
    summary = path.with_suffix(".json")
    if max(indices, default=0) < rows or not summary.exists():
        return False
    counted = read_object(summary, EvaluationError).get("questions", 0)
    if counted > found:
        _log.warning(f"{summary} stays as it is, of {counted:,} questions: these are the first {found:,} of them")
    return counted > found


def remove_cut_line(path: pathlib.Path) -> None:
    """Removes the last line of a file if a kill has cut it short."""
    whole = path.read_bytes()
    if not whole.endswith(b"\n"):
        write_whole(path, whole[: whole.rfind(b"\n") + 1])
