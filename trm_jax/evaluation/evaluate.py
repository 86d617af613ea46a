"""Generates and grades completions for a data set, a JSON line for each question; an interrupted evaluation can go on."""

import collections
import contextlib
import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from tqdm import tqdm

from trm_jax.data import Row, encode_prompts, public_name
from trm_jax.decoding import Completion
from trm_jax.errors import listing
from trm_jax.evaluation.published import flexible_extract, is_exact_match, strict_match
from trm_jax.evaluation.records import EvaluationError, GradedAnswer, is_summary_of_more, read_answers_to
from trm_jax.evaluation.settings import require_same_settings
from trm_jax.evaluation.statistics import accuracy
from trm_jax.files import lock_beside, locked, write_whole
from trm_jax.processes import first_says, is_first, number, of_all

_log = logging.getLogger(__name__)

# Takes prompts and yields completions as they end: `generate_each` with its settings.
Generate = Callable[[list[list[int]]], Iterator[Completion]]


def evaluate(
    rows: Sequence[Row],
    tokenizer,
    generate: Generate,
    output: pathlib.Path | None = None,
    settings: dict[str, Any] | None = None,
    samples: int = 1,
    label: str | None = None,
    longest_prompt: int | None = None,
    too_long: Literal["wrong", "left_out"] = "wrong",
) -> list[GradedAnswer]:
    """Answers and grades every question.

    Args:
        rows: each with a `question` and, as `answer`, the worked solution with its `####` line or box.
        generate: gives `samples` completions to each prompt; the answer that most of them end in is graded.
        output: a file (.jsonl) that gets a line a question, as they are answered; lines that it holds already are kept. The
            summary is written beside it, unless there is one of more questions already.
        settings: of this evaluation, for the summary; a file with other settings is refused.
        label: of the progress bar; without a label there is no bar.
        longest_prompt: tokens of the longest question that is asked, instruction and chat format included; longer ones are
            named in the log, and are wrong or left out, as `too_long` says.

    Of several processes that have joined each answers a share of the questions. Process 0 gets all answers, the others have
    only their own.

    Returns the answers in the order of `rows`. Raises EvaluationError if the file is of another evaluation or no question
    fits, BusyError if another process writes the file.

    Example: `summarize(evaluate(rows, tokenizer, functools.partial(generate_each, model, ...), path, settings))`.
    """
    # Of several processes, process 0 alone reads and writes files.
    settings, file = settings or {}, output if is_first() else None
    if file:
        require_same_settings(file, settings)
    with locked(lock_beside(file), file) if file else contextlib.nullcontext():
        done = read_answers_to(file, rows) if file else {}

        def keep(answer: GradedAnswer) -> None:
            done[answer.index] = answer
            if file:
                append(file, answer.to_json(), settings)

        answered = first_says(list(done))
        todo = [index for index in range(len(rows)) if index not in answered]
        prompts = dict(zip(todo, encode_prompts(tokenizer, [rows[index]["question"] for index in todo]), strict=True))
        over = [index for index in todo if longest_prompt is not None and len(prompts[index]) > longest_prompt]
        if over and len(over) == len(rows):
            raise EvaluationError(
                f"none of {len(rows)} questions fits into the {max(0, longest_prompt):,} tokens that are left for a prompt: "
                "lower --max-new-tokens"
            )
        if over:
            _say_too_long(over, prompts, longest_prompt, too_long)
        for index in over:
            del prompts[index]
            if too_long == "wrong":
                keep(GradedAnswer.not_asked(index, rows[index]))
        answers = _answers(rows, tokenizer, generate, prompts, samples)
        for answer in tqdm(answers, label, len(prompts), unit="question", disable=label is None or not is_first()):
            keep(answer)
    found = [done[index] for index in range(len(rows)) if index in done]
    if file and not is_summary_of_more(file, done, len(rows), len(found)):
        # What others may read about the questions is known here: elsewhere a relative path looks like a name on the hub.
        named = {"data_name": public_name(settings["data"])} if "data" in settings else {}
        summary = settings | named | summarize(found, len(rows))
        write_whole(file.with_suffix(".json"), json.dumps(summary, indent=2) + "\n")
    first_says()  # so that no process ends while others are at work
    return found


def _answers(
    rows: Sequence[Row], tokenizer, generate: Generate, prompts: Mapping[int, list[int]], samples: int
) -> Iterator[GradedAnswer]:
    """The answers to the prompts, by the number of the row, as they end. Of several processes each takes a share of them.

    Process 0 gets all, the others only their own.
    """
    process, count = number()
    own = list(prompts)[process::count]

    def grade(place: int, completions: Sequence[Completion]) -> GradedAnswer:
        texts = [tokenizer.decode(completion.tokens, skip_special_tokens=True) for completion in completions]
        return GradedAnswer.grade(own[place], rows[own[place]], texts, completions, seconds=0.0)

    graded = (grade(*question) for question in by_question(generate([prompts[index] for index in own]), samples))
    others = len(prompts) - len(own)
    return _timed(
        of_all(graded, others, GradedAnswer.to_json, lambda values: GradedAnswer.from_json(values, "a process"))
    )


def _timed(answers: Iterator[GradedAnswer]) -> Iterator[GradedAnswer]:
    """The answers with the seconds between the end of each and that of the one before."""
    ended = time.perf_counter()
    for answer in answers:
        before, ended = ended, time.perf_counter()
        yield dataclasses.replace(answer, seconds=ended - before)


def _say_too_long(over: Sequence[int], prompts: Mapping[int, list[int]], longest: int, too_long: str) -> None:
    named = listing(f"question {index + 1} of {len(prompts[index]):,} tokens" for index in over)
    verb = "are wrong" if too_long == "wrong" else "are left out"
    _log.warning("%s: more than the %s that there is room for beside the answer; they %s", named, f"{longest:,}", verb)


def append(output: pathlib.Path, answer: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes the record of an answer; before the first one, the settings beside it."""
    if not output.exists():
        write_whole(output.with_suffix(".json"), json.dumps(settings, indent=2) + "\n")
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(answer, ensure_ascii=False) + "\n")


def by_question(completions: Iterable[Completion], samples: int) -> Iterator[tuple[int, list[Completion]]]:
    """Yields the number of a question with all its samples, in their order, as soon as the last one has ended."""
    waiting = collections.defaultdict(list)
    for completion in completions:
        waiting[completion.prompt].append(completion)
        if len(waiting[completion.prompt]) == samples:
            yield completion.prompt, sorted(waiting.pop(completion.prompt), key=lambda one: one.sample)


def summarize(answers: Sequence[GradedAnswer], asked: int | None = None) -> dict[str, Any]:
    """Accuracy with its 95 % interval, how answers were stated, and speed (compilation included).

    `asked` is the number of questions, if some of them may have been left out.

    Example: `summarize(answers)["accuracy"]`.
    """
    seconds, tokens = (sum(getattr(answer, name) for answer in answers) for name in ("seconds", "tokens"))
    interval = accuracy([answer.correct for answer in answers])
    forms = collections.Counter(answer.form or "none" for answer in answers)
    summary = {
        "questions": len(answers),
        "correct": sum(answer.correct for answer in answers),
        "accuracy": interval.estimate,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "strict": sum(answer.strict for answer in answers),
        **_published(answers),
        "forms": dict(forms.most_common()),
        "seconds_per_sample": seconds / len(answers),
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "steps_per_token": sum(answer.steps * answer.tokens for answer in answers) / max(tokens, 1),
    }
    if too_long := sum(answer.tokens == 0 for answer in answers):
        summary["too_long"] = too_long  # and so wrong
    if left_out := (asked or len(answers)) - len(answers):
        summary["left_out"] = left_out  # as too long
    if any(answer.samples for answer in answers):
        every = [sample.correct for answer in answers for sample in answer.every_sample]
        summary["sample_accuracy"] = sum(every) / len(every)
    return summary


def _published(answers: Sequence[GradedAnswer]) -> dict[str, int]:
    """How many answers lm-evaluation-harness counts as right, by the names of its filters."""
    filters = {"strict-match": strict_match, "flexible-extract": flexible_extract}
    return {
        name: sum(is_exact_match(find(answer.text), answer.expected or "") for answer in answers)
        for name, find in filters.items()
    }


def show_summary(summary: dict[str, Any], samples: int = 1, early_exit: float | None = None) -> str:
    """A few lines for a person. Example: `print(show_summary(summarize(answers)))`."""
    lines = [
        f"accuracy   {100 * summary['accuracy']:.1f} %, 95 % interval {100 * summary['accuracy_low']:.1f} to "
        f"{100 * summary['accuracy_high']:.1f} ({summary['correct']} of {summary['questions']}, "
        f"{summary['strict']} of them boxed)",
        f"answers    {', '.join(f'{count} {form}' for form, count in summary['forms'].items())}",
        f"lm-eval    {summary['strict-match']} by strict-match, {summary['flexible-extract']} by flexible-extract",
        f"speed      {summary['seconds_per_sample']:.3f} s a sample, {summary['tokens_per_second']:,.1f} tokens/s, "
        "compilation included",
    ]
    if "too_long" in summary:
        lines.append(f"too long   {summary['too_long']} questions, which were not asked and count as wrong")
    if "left_out" in summary:
        lines.append(f"left out   {summary['left_out']} questions, as too long; they are in no figure above")
    if samples > 1:
        lines.append(f"one sample {100 * summary['sample_accuracy']:.1f} % on average; the accuracy is of the majority")
    if early_exit is not None:
        lines.append(f"steps      {summary['steps_per_token']:.2f} supervision steps a token")
    return "\n".join(lines)
