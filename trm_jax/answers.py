"""The final answer of a worked solution, and when two answers are the same. Knows no model."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

BOXED = "\\boxed"

# An unsigned number: 1,234.50, 12., .5. Commas group by three, or it is none.
DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)|\d+(?!,?\d))(?:\.\d*)?|\.\d+"
SIGN = r"(?:(?<![\w).])-)?"
VALUE = rf"(?P<sign>{SIGN})(?:(?P<whole>\d+) (?=\d+/))?(?P<top>{DIGITS})(?:/(?P<bottom>{DIGITS}))?"
# Before a number: words, a colon. Behind it: a unit, in letters. Neither is a variable, a power or another operation.
BEFORE = r"(?:[^\d\\^_+*/()-]*[^\w\\^_+*/().,-])?"
UNIT = r"(?:[mglLshd]|[^\W\d_A-Za-z]|[^\W\d_]{2,}\.?)(?:\^\{?[23]\}?)?"
BEHIND = rf"(?:(?:[ -]?{UNIT}| a)(?:(?: |/|, ?|; ?|-){UNIT}| a)*)?[ .!?]*"
LONGEST = 200  # characters of a number and what stands around it
# Words that make another number of it.
CHANGES = re.compile(r"\b(?:minus|negative|half|twice|double|triple|not|plus|times [^a])\b", re.IGNORECASE)
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
# In running text: a number that is no part of a word or of another number.
LOOSE = re.compile(rf"(?<![\w.,/]){SIGN}(?:{DIGITS})(?:/(?:{DIGITS}))?(?![\w/]|[.,]\d)")


class FinalAnswer(NamedTuple):
    """What a solution ends in, and how it says so."""

    text: str
    form: Literal["boxed", "marked", "number"]


def find_answer(solution: str) -> FinalAnswer | None:
    """The contents of the last whole `\\boxed{…}`, else what follows the last `####`, else the last number; or None."""
    for start in reversed([match.start() for match in re.finditer(re.escape(BOXED), solution)]):
        contents = _braced(solution[start + len(BOXED) :].lstrip())
        if contents is not None:
            return FinalAnswer(contents.strip(), "boxed")
    if marks := re.findall(r"####\s*(\S[^\n]*)", solution):
        return FinalAnswer(marks[-1].strip(), "marked")
    numbers = LOOSE.findall(_plain(solution))
    return FinalAnswer(numbers[-1].rstrip("."), "number") if numbers else None


def reference_answer(solution: str) -> str | None:
    """The answer that a data set's solution states, in a box or behind `####`; a loose number is none."""
    found = find_answer(solution)
    return found.text if found and found.form != "number" else None


def same_answer(found: str | None, expected: str | None) -> bool:
    """Whether two answers are the same number, or, where neither is a number, the same text."""
    if found is None or expected is None:
        return False
    numbers = parse_number(found), parse_number(expected)
    if numbers == (None, None):
        return _plain(found).casefold() == _plain(expected).casefold() != ""
    return numbers[0] == numbers[1]


def majority(answers: Sequence[str | None]) -> int:
    """The index of the first of those answers that most of the others are the same as; no answer has no vote."""
    votes = [sum(same_answer(answer, other) for other in answers) for answer in answers]
    return votes.index(max(votes))


def parse_number(text: str) -> Fraction | None:
    """The one number in an answer, whatever currency, unit, grouping or LaTeX stands around it; None if it is not one.

    `$1,234.50` is 2469/2, `18\\text{ eggs}` is 18, `\\frac{1}{2}` and `1/2` are 1/2, `2 million` is 2,000,000.
    `3 + 4 = 7` is 7; `5x`, `10^3`, `5\\pi`, `1,23` and `3 or 4` are none.
    """
    text = _plain(text).split("=")[-1].strip()
    if len(text) > LONGEST or CHANGES.search(text):
        return None
    match = re.fullmatch(rf"{BEFORE}{VALUE}(?P<behind>{BEHIND})", text)
    if match is None:
        return None
    defaults = {"whole": "0", "top": "", "bottom": "1"}
    whole, top, bottom = (Fraction((match[name] or other).replace(",", "")) for name, other in defaults.items())
    if bottom == 0:
        return None
    value = whole + top / bottom
    for word in match["behind"].lower().split()[:2]:
        value *= SCALES.get(word, 1)
    return -value if match["sign"] else value


def _braced(text: str) -> str | None:
    """The contents of the braces that the text begins with; None if they do not close."""
    depth = 0
    for position, character in enumerate(text):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        if depth == 0:
            return text[1:position] if position else None
    return None


def _plain(text: str) -> str:
    """Without LaTeX dress, currency signs, percent signs, degrees and needless white space; fractions as 1/2."""
    text = text.replace("{,}", ",").replace("−", "-").replace("**", "")
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}", r" \1", text)
    text = re.sub(r"\\[dt]?frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<=\d)\s*(?=\\[dt]?frac)", " ", text)
    text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\[,;:! ]|~|\\left|\\right|\\[()\[\]]|\^\{?\\circ\}?|°", " ", text)
    text = re.sub(r"\\?%|\\?\$|[€£]", "", text)
    return re.sub(r"^- ", "-", " ".join(text.split())).removesuffix(".")
