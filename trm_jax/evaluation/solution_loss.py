"""The negative log-likelihood of worked solutions, question by question: backbone against heads on it.

It is far sharper than the share of right answers: every token of a solution counts, and the questions pair.
"""

import collections
import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
import pydantic
from pydantic import Field
from tqdm import tqdm

from trm_jax.data import Example, Row, encode_rows
from trm_jax.errors import listing
from trm_jax.evaluation.evaluate import append
from trm_jax.evaluation.likelihood import score_solutions
from trm_jax.evaluation.plots import plot_against_first
from trm_jax.evaluation.records import EvaluationError, is_summary_of_more, remove_cut_line
from trm_jax.evaluation.settings import require_same_settings
from trm_jax.evaluation.statistics import Interval, loss_per_token
from trm_jax.files import lock_beside, locked, read_lines, write_whole
from trm_jax.model import TRM, Qwen

Nats = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True)
class SolutionLoss:
    """The negative log-likelihood of all tokens of one question's solution, its end token included, in nats."""

    index: Annotated[int, Field(ge=0, strict=True)]  # of the question, in its data set
    question: str
    solution_tokens: Annotated[int, Field(ge=1, strict=True)]
    backbone: Nats
    trm: Annotated[tuple[Nats, ...], Field(min_length=1)]  # after each supervision step
    controls: dict[str, Annotated[tuple[Nats, ...], Field(min_length=1)]]  # the same of other heads on this backbone

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Reads a line back. Raises EvaluationError, naming `where` it stands."""
        try:
            return _adapter().validate_python(values)
        except pydantic.ValidationError as error:
            place, fault = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
            raise EvaluationError(f"{where} is no record of likelihood.py: {place}: {fault}") from None


@functools.cache
def _adapter() -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(SolutionLoss)


def measure_solutions(
    rows: Sequence[Row],
    tokenizer,
    backbone: Qwen,
    trm: TRM,
    output: pathlib.Path,
    settings: dict[str, Any],
    controls: Mapping[str, TRM] | None = None,
    batch_size: int | None = None,
    keep_annotations: bool = False,
) -> list[SolutionLoss]:
    """Measures each row's solution, as it is tokenised for training, and writes a line a question to `output`.

    Lines that the file holds already are kept; a file with other `settings` is refused. The summary is written beside it,
    unless there is one of more questions already.
    Returns the losses in the order of `rows`. Raises EvaluationError, also where no row fits into the backbone's length, or
    a loss is not finite.

    Example: `show_losses(measure_solutions(rows, tokenizer, model.backbone, model.trm, path, settings))`.
    """
    controls = controls or {}
    require_same_settings(output, settings)
    with locked(lock_beside(output), output):
        examples = encode_rows(rows, tokenizer, keep_annotations)
        done = _read_done(output, rows, examples)
        fits = [i for i, row in enumerate(examples) if len(row.tokens) <= backbone.config.max_length]
        if not fits:
            raise EvaluationError(
                f"none of {len(rows)} rows fits into the backbone's {backbone.config.max_length:,} tokens"
            )
        todo = [index for index in fits if index not in done]
        scored = score_solutions(backbone, [trm, *controls.values()], [examples[i] for i in todo], batch_size)
        for place, alone, (own, *others) in tqdm(scored, "measured", len(todo), unit="question"):
            index, names = todo[place], dict(zip(controls, map(tuple, others), strict=True))
            sizes = rows[index]["question"], examples[index].solution_length
            done[index] = SolutionLoss(index, *sizes, alone, tuple(own), names)
            if not np.isfinite([alone, *own, *itertools.chain(*others)]).all():
                raise EvaluationError(f"the loss of question {index + 1} is not finite; --dtype float32 may help")
            append(output, dataclasses.asdict(done[index]), settings)
        found = [done[index] for index in fits]
        summary = summarize_losses(found) | {"left_out": len(rows) - len(found)}
        if not is_summary_of_more(output, done, len(rows), len(found)):
            write_whole(output.with_suffix(".json"), json.dumps(settings | summary, indent=2) + "\n")
    return found


def _read_done(path: pathlib.Path, rows: Sequence[Row], examples: Sequence[Example]) -> dict[int, SolutionLoss]:
    if not path.exists():
        return {}
    remove_cut_line(path)
    found = {loss.index: loss for loss in _read(path)}
    for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
        own = row["question"], example.solution_length
        if index in found and (found[index].question, found[index].solution_tokens) != own:
            raise EvaluationError(f"{path} is of other questions or solutions: give another --output, or remove it")
    return found


def _read(path: pathlib.Path) -> Iterator[SolutionLoss]:
    first = None
    for number, values in read_lines(path, EvaluationError):
        loss = SolutionLoss.from_json(values, f"{path}, line {number}")
        first = first or loss
        if loss.controls.keys() != first.controls.keys():
            raise EvaluationError(f"{path}, line {number} has other controls than the first line")
        yield loss


def summarize_losses(losses: Sequence[SolutionLoss]) -> dict[str, Any]:
    """Nats a token of the backbone and of each head after each supervision step, and what each is above the backbone.

    Example: `summarize_losses(losses)["trm"][-1]["difference"]["estimate"]`.
    """
    tokens, alone = _numbers(losses, "solution_tokens"), _numbers(losses, "backbone")

    def of_steps(steps: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"loss": vars(loss_per_token(one, tokens)), "difference": vars(loss_per_token(one - alone, tokens))}
            for one in steps.T
        ]

    return {
        "questions": len(losses),
        "solution_tokens": int(tokens.sum()),
        "backbone": vars(loss_per_token(alone, tokens)),
        "trm": of_steps(_numbers(losses, "trm")),
        "controls": {name: of_steps(np.array([loss.controls[name] for loss in losses])) for name in losses[0].controls},
    }


def show_losses(losses: Sequence[SolutionLoss]) -> str:
    """A table for a person. Example: `print(show_losses(losses))`."""
    found = summarize_losses(losses)
    heads = {"step": found["trm"]} | {f"{name}, step": steps for name, steps in found["controls"].items()}
    named = {f"{head} {number}": step for head, steps in heads.items() for number, step in enumerate(steps, 1)}
    width = max(24, *map(len, named)) + 2
    lines = [
        f"{found['questions']:,} solutions of {found['solution_tokens']:,} tokens",
        f"{'':<{width}}{'nats a token [95 %]':<28}above the backbone (paired)",
        f"{'backbone alone':<{width}}{Interval(**found['backbone']).nats()}",
    ]
    for name, step in named.items():
        loss, difference = (Interval(**step[name]) for name in ("loss", "difference"))
        lines.append(f"{name:<{width}}{loss.nats():<28}{difference.nats('+')}")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class LossFile:
    """The losses of one file of likelihood.py, by question."""

    name: str
    losses: dict[str, SolutionLoss]


@dataclasses.dataclass(frozen=True)
class LossComparison:
    """One head after its last supervision step, compared with the backbone and with the first file's head; nats a token."""

    name: str
    loss: Interval
    above_backbone: Interval
    above_first: Interval
    questions: int


def holds_losses(path: pathlib.Path) -> bool:
    """Whether a file is of likelihood.py. Raises EvaluationError if it is no JSON.

    Example: `holds_losses(pathlib.Path("losses.jsonl"))`.
    """
    return any("solution_tokens" in values for _, values in zip(range(1), _values(path), strict=False))


def _values(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    return (values for _, values in read_lines(path, EvaluationError))


def read_losses(path: pathlib.Path) -> LossFile:
    """Reads a file of likelihood.py, in the order of its data set. Raises EvaluationError, naming the line.

    Example: `len(read_losses(pathlib.Path("losses.jsonl")).losses)`.
    """
    asked, losses = collections.Counter(), {}
    for loss in sorted(_read(path), key=lambda loss: loss.index):
        asked[loss.question] += 1
        count = asked[loss.question]
        losses[loss.question if count == 1 else f"{loss.question} ({count})"] = loss
    return LossFile(str(path.parent / path.stem), losses)


def compare_losses(files: Sequence[LossFile]) -> list[LossComparison]:
    """The head and the controls of each file against the first file's head, on the questions that all files have.

    Raises EvaluationError if there are fewer than two, or if a solution has other tokens in one file than in another.

    Example: `loss_table(compare_losses([read_losses(path) for path in paths]))`.
    """
    first, *others = files
    shared = [question for question in first.losses if all(question in other.losses for other in others)]
    if len(shared) < 2:
        few = "one question is" if shared else "no question is"
        raise EvaluationError(f"{few} in all of {listing(one.name for one in files)}; intervals need two")
    own = [(one.name, [one.losses[question] for question in shared]) for one in files]
    tokens = _numbers(own[0][1], "solution_tokens")
    found, baseline = [], np.array([loss.trm[-1] for loss in own[0][1]])
    for name, losses in own:
        if (at := np.flatnonzero(_numbers(losses, "solution_tokens") != tokens)).size:
            raise EvaluationError(f"{name} and {first.name} have different solutions to: {shared[at[0]]}")
        alone, heads = _numbers(losses, "backbone"), {name: [loss.trm[-1] for loss in losses]}
        heads |= {f"{name}: {label}": [loss.controls[label][-1] for loss in losses] for label in losses[0].controls}
        for label, values in heads.items():
            intervals = (loss_per_token(np.array(values) - base, tokens) for base in (0, alone, baseline))
            found.append(LossComparison(label, *intervals, len(shared)))
    return found


def loss_table(found: Sequence[LossComparison]) -> str:
    """A table, one head a row. Example: `print(loss_table(compare_losses(files)))`."""
    lines = ["| | nats a token [95 %] | above its backbone | above the first |", "|---|---|---|---|"]
    for number, one in enumerate(found):
        difference = one.above_first.nats("+") if number else "–"
        lines.append(f"| {one.name} | {one.loss.nats()} | {one.above_backbone.nats('+')} | {difference} |")
    return "\n".join(lines)


def write_losses(found: Sequence[LossComparison], folder: pathlib.Path) -> None:
    """Writes the table (comparison.md), the figures (.json) and a plot (.png).

    Example: `write_losses(found, pathlib.Path("out"))`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "comparison.md", loss_table(found) + "\n")
    content = json.dumps([dataclasses.asdict(one) for one in found], indent=1)
    write_whole(folder / "comparison.json", content + "\n")
    losses = "nats a token (95 % interval)", [one.loss for one in found]
    differences = "above the first, nats a token", [one.above_first for one in found]
    plot_against_first([one.name for one in found], losses, differences, folder / "comparison.png")


def _numbers(losses: Sequence[SolutionLoss], field: str) -> np.ndarray:
    return np.array([getattr(loss, field) for loss in losses])
