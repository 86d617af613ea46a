"""Finds the final answer of a worked solution, and tells whether two answers are the same.

Two judges: `plain_numbers` reads a number in its dress, `mathematics` asks math-verify about formulas. Where both read an
answer, the plain number counts, because it is exact and knows units, percent signs and grouping. math-verify is asked
only if at least one answer is no plain number and both are nothing but mathematics, because it passes over words.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from trm_jax.data.mathematics import is_mathematics, same_mathematics
from trm_jax.data.plain_numbers import last_number, parse_number, undressed

BOX = r"\\(?:boxed|fbox)(?![A-Za-z])"
NEXT_QUESTION = re.compile(
    r"\n\s*(?:\*\*)?(?:Question|Problem|Q|Human|User)(?:\*\*)?\s*\d*\s*:"
)  # a model may go on with one
STATED = re.compile(
    r"(?:\b(?:the |my )?(?:final )?answer(?: is\b:?|:)|\bAnswer\b ?[:：]|答案(?:是|为|：|:))(?:\*\*)?\s*(\S[^\n]*)",
    re.IGNORECASE,
)
HEADING = re.compile(r"(?:step|part|case|section|question|problem|solution|note)s?\b|\d+[.):]\s+\D", re.IGNORECASE)
THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
NAMED = re.compile(r"[\s$]*([A-Za-z])\s*=")
CHOICE = re.compile(r"\(?([A-Ja-j])\)?")


class FinalAnswer(NamedTuple):
    """The final answer of a solution, and the form in which it is stated."""

    text: str
    form: Literal["boxed", "marked", "number"]


def find_answer(solution: str) -> FinalAnswer | None:
    """What the last non-empty `\\boxed{…}` holds, else what is behind the last `####`, else behind "the answer is", else
    the last number.

    A heading behind `####` is no answer. None if there is none of these, or if the last number cannot be parsed: an
    earlier number would not be the answer.

    Example: `find_answer("so it is #### 7")` is `FinalAnswer("7", "marked")`.
    """
    solution = THOUGHT.sub("", solution) or solution
    return stated_answer(NEXT_QUESTION.split(solution)[0] or solution)


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
    for start, end in sorted(_boxes(solution), reverse=True):
        if undressed(solution[start:end]):
            return FinalAnswer(solution[start:end].strip(), "boxed")
    if span := marked_span(solution):
        return FinalAnswer(solution[slice(*span)], "marked")
    for line in reversed(re.sub(BOX, " ", solution).splitlines()):
        number = last_number(line)
        if number is not None:
            return FinalAnswer(number, "number") if parse_number(number) is not None else None
    return None


def reference_answer(solution: str) -> str | None:
    """The answer that a data set's solution states in a box, behind `####` or "the answer is", or that is all of it.

    None if the solution only ends in a number.

    Example: `reference_answer("1+1 = 2\\n#### 2")` is `"2"`.
    """
    found = stated_answer(solution)
    if found and found.form != "number":
        return found.text
    solution = solution.strip()
    is_bare = parse_number(solution) is not None and not solution[:2].isalpha()
    return solution if is_bare or is_mathematics(solution) or re.fullmatch(r"\\text\{[^{}]+\}", solution) else None


def same_answer(found: str | None, expected: str | None) -> bool:
    """Whether two answers are the same number, the same formula, the same choice or the same words.

    Example: `same_answer("1/2", "0.5")` is True.
    """
    if found is None or expected is None or len({half for half in map(_half_of_day, (found, expected)) if half}) > 1:
        return False
    names = {name[1] for name in map(NAMED.match, (found, expected)) if name}
    if len(names) > 1:  # x = 5 is not y = 5
        return False
    numbers = parse_number(found), parse_number(expected)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if numbers == (None, None) and _words_of(found) == _words_of(expected) != "":
        return True
    return same_mathematics(found, expected)


def majority(answers: Sequence[str | None]) -> int:
    """The index of the answer that equals the most others, the first one in a tie; None, no answer, gets no votes.

    Example: `majority(["5", "7", "7.0"])` is 1.
    """
    votes = [sum(same_answer(answer, other) for other in answers) for answer in answers]
    return votes.index(max(votes))


def _marked(solution: str) -> tuple[str, int, int] | None:
    """What stands behind the last `####` that is no heading of Markdown, and between which places it is to be found.

    Words are an answer (`#### Saturday`) if nothing follows them, a number or a formula also if a note does.
    """
    for mark in reversed(list(re.finditer(r"####[ \t]*\n?[ \t]*([^\s#][^\n]*)", solution))):
        text = re.sub(r"^\W*(?:final )?answer\b\W*?[:：]\s*", "", mark[1], flags=re.IGNORECASE).strip()
        is_last = not solution[mark.end() :].strip()
        reads = parse_number(text) is not None and (is_last or not text[:2].isalpha())
        if not HEADING.match(text) and text and (reads or is_last or is_mathematics(text)):
            return text, *mark.span(1)
    return None


def _tagged(solution: str) -> tuple[str, int, int] | None:
    """What stands in the last `<answer>` tag, if it is a number or a formula."""
    for tag in reversed(list(re.finditer(r"<answer>([^<>]*)</answer>", solution))):
        text = tag[1].strip()
        if parse_number(text) is not None or is_mathematics(text):
            return text, *tag.span(1)
    return None


def _stated(solution: str) -> tuple[str, int, int] | None:
    """The answer behind the last "the answer is", if it is a number or a formula and the rest is a new sentence."""
    for stated in reversed(list(STATED.finditer(solution))):
        text = re.split(r"(?<=[\w)\]}$*])(?:\. |[.。]?$| \((?=[a-z])|(?<=\d) \()", stated[1])[0].strip("* ")
        if parse_number(text) is not None or is_mathematics(text):
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


def _half_of_day(answer: str) -> str | None:
    """Whether a time is before or after noon, `a` or `p`."""
    half = re.search(r"(?<![a-z])([ap])\.?\s?m(?![a-z])", undressed(answer).casefold())
    return half and half[1]


def _words_of(answer: str) -> str:
    """An answer as it is compared with another that is no number: without dress, spaces that do not matter, and case."""
    text = re.sub(r"_\{(\w+)\}", r"_\1", undressed(answer).casefold())
    text = re.sub(r" ?(?<![a-z])([ap])\.?\s?m\b\.?", r"\1m", text)
    if choice := CHOICE.fullmatch(text):
        return choice[1].casefold()
    return re.sub(r"(?<!\w) | (?!\w)", "", text)
