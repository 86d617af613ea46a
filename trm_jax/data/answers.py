"""Finds the final answer of a worked solution."""

import itertools
import re
from typing import Literal, NamedTuple

from trm_jax.data.mathematics import is_mathematics
from trm_jax.data.plain_numbers import last_number, parse_number, undressed

BOX = r"\\(?:boxed|fbox)(?![A-Za-z])"
# A model may go on with one, or say its own again before it answers.
QUESTION = re.compile(r"\n[ \t]*(?:\*\*)?(?:Question|Problem|Q|Human|User)(?:\*\*)?\s*\d*\s*:")
STATED = re.compile(
    r"(?:\b(?:the |my )?(?:final )?answer(?: is\b:?|:)|\bAnswer\b ?[:：]"
    r"|答案?(?:是|为)?[：:]|答案(?:是|为)|选[：:]?(?=\s*[A-J](?![A-Za-z])))"
    r"(?:\*\*)?\s*(?:(?:option|choice) (?=\W?[A-Ja-j]\b))?(?=(\S[^\n]{0,300}))",  # looked at, since another may follow
    re.IGNORECASE,
)
HEADING = re.compile(r"(?:step|part|case|section|question|problem|solution|note)s?\b|\d+[.):]\s+\D", re.IGNORECASE)
THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
TIME = re.compile(r"[012]?\d:[0-5]\d(?: ?[AaPp][Mm])?")
CHOICE = re.compile(r"\(?([A-HJa-hj])\)?")
CHOSEN = re.compile(r"\(?([A-HJ])(?:[.):]+) ?(\S.*)")  # with what it says, as (B) 12
WORDS = re.compile(
    r"(?:yes|no|true|false|even|odd|(?:mon|tues|wednes|thurs|fri|satur|sun)day|january|february|march|april|june|july"
    r"|august|september|october|november|december)",
    re.IGNORECASE,
)


class FinalAnswer(NamedTuple):
    """The final answer of a solution, and the form in which it is stated."""

    text: str
    form: Literal["boxed", "marked", "number"]


def find_answer(solution: str) -> FinalAnswer | None:
    """What the last non-empty `\\boxed{…}` holds, else what is behind the last `####`, else behind "the answer is", else
    the last number.

    A heading behind `####` is no answer. None if there is none of these, or if the last number cannot be parsed: an
    earlier number would not be the answer. A thought does not count, nor does what `without_next_question` leaves out.

    Example: `find_answer("so it is #### 7")` is `FinalAnswer("7", "marked")`.
    """
    solution = without_next_question(solution)
    return stated_answer(THOUGHT.sub("", solution) or solution)


def without_next_question(solution: str) -> str:
    """A completion up to where it goes on with another question, which is behind an answer.

    A question before which there is no answer is its own, said again. An answer is in a box, or marked, or a number in
    the last line.

    Example: `without_next_question("\\boxed{7}\nQuestion: 2 + 2?")` is `"\\boxed{7}"`.
    """
    thought = THOUGHT.match(solution)
    behind = thought.end() if thought else 0
    parts = itertools.pairwise([behind, *(question.start() for question in QUESTION.finditer(solution, behind))])
    end = next((end for start, end in parts if _has_answer(solution[start:end])), None)
    return solution[:end]


def _has_answer(text: str) -> bool:
    """Whether a text states an answer, or has a number in its last line, unless that is a heading."""
    last = text.strip().rpartition("\n")[2].strip("#* ")
    return _explicit(text) is not None or (not HEADING.match(last) and bool(last_number(last)))


def marked_span(solution: str) -> tuple[int, int] | None:
    """Where in a solution the answer stands that is behind `####` or "the answer is"; None if there is none.

    Example: `marked_span("#### 7")` is `(5, 6)`.
    """
    found = _marked(solution) or _tagged(solution) or _stated(solution)
    if found is None:
        return None
    text, start, end = found
    start = solution.index(text, start, end)
    return start, start + len(text)


def stated_answer(solution: str) -> FinalAnswer | None:
    """As `find_answer`, but of a data set's solution, which is a whole and no continuation of a prompt.

    Example: `stated_answer("#### 7")` is `FinalAnswer("7", "marked")`.
    """
    if explicit := _explicit(solution):
        return explicit
    for line in reversed(re.sub(BOX, " ", solution).splitlines()):
        number = last_number(line)
        if number is not None:
            return FinalAnswer(number, "number") if parse_number(number) is not None else None
    return None


def _explicit(solution: str) -> FinalAnswer | None:
    """An answer that is in a box, or marked as the answer."""
    for start, end in sorted(_boxes(solution), reverse=True):
        if undressed(solution[start:end]):
            return FinalAnswer(solution[start:end].strip(), "boxed")
    span = marked_span(solution)
    return span and FinalAnswer(solution[slice(*span)], "marked")


def reference_answer(solution: str) -> str | None:
    """The answer that a data set's solution states in a box, behind `####` or "the answer is", or that is all of it.

    None if the solution only ends in a number.

    Example: `reference_answer("1+1 = 2\\n#### 2")` is `"2"`.
    """
    found = stated_answer(solution)
    if found and found.form != "number":
        return found.text
    solution = solution.strip()
    is_word = re.fullmatch(r"[^\W\d_]+(?:-[^\W\d_]+)?|\\text\{[^{}]+\}", solution)  # Saturday, twenty-five
    return solution if is_word or (_is_answer(solution) and not solution[:2].isalpha()) else None


def _is_answer(text: str) -> bool:
    """Whether a text is a number, a formula, a choice or a time, and so can be an answer wherever it stands."""
    plain = undressed(text)
    return (
        parse_number(text) is not None
        or any(map(is_mathematics, (text, plain)))
        or any(form.fullmatch(plain) for form in (CHOICE, CHOSEN, TIME, WORDS))
    )


def _marked(solution: str) -> tuple[str, int, int] | None:
    """What stands behind the last `####` that is no heading of Markdown, and between which places it is to be found.

    Words are an answer (`#### Saturday`) if nothing follows them, a number or a formula also if a note does.
    """
    for mark in reversed(list(re.finditer(r"####[ \t]*\n?[ \t]*([^\s#][^\n]*)", solution))):
        text = re.sub(r"^\W*(?:final )?answer\b\W*?[:：]\s*", "", mark[1], flags=re.IGNORECASE).strip()
        is_last = not solution[mark.end() :].strip()
        reads = _is_answer(text) and not text[:2].isalpha()
        if not HEADING.match(text) and text and (reads or is_last):
            return text, *mark.span(1)
    return None


def _tagged(solution: str) -> tuple[str, int, int] | None:
    """What stands in the last `<answer>` tag, if it is a number or a formula."""
    for tag in reversed(list(re.finditer(r"<answer>([^<>]*)</answer>", solution))):
        text = tag[1].strip()
        if _is_answer(text):
            return text, *tag.span(1)
    return None


def _stated(solution: str) -> tuple[str, int, int] | None:
    """The answer behind the last "the answer is", if it is a number or a formula and the rest is a new sentence."""
    for stated in reversed(list(STATED.finditer(solution))):
        text = re.split(r"(?<=[\w)\]}$*])(?:\. (?![mM]\b)|[.。]?$| \((?=[a-z])|(?<=\d) \(| [-–—] (?=[a-z]))", stated[1])
        text = text[0].strip("* ")
        if _is_answer(text):
            return text, *stated.span(1)
    return None


def _boxes(solution: str) -> list[tuple[int, int]]:
    """Where the contents of each closed `\\boxed{…}` start and end."""
    boxes = [one.span(1) for one in re.finditer(rf"{BOX}\s*(-?[\d.,]*\d)", solution)]  # without braces
    opened: list[re.Match] = []
    for brace in re.finditer(rf"(?P<box>{BOX}\s*)?\{{|\}}", solution):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and (start := opened.pop())["box"]:
            boxes.append((start.end(), brace.start()))
    return boxes
