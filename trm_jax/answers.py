"""The final answer of a worked solution, and when two answers are the same. Knows no model."""

import re
from collections.abc import Sequence
from fractions import Fraction

BOXED = "\\boxed"


def extract_answer(text: str) -> str | None:
    """The contents of the last whole `\\boxed{…}`, else what follows the last `####`; None without either."""
    for start in reversed([match.start() for match in re.finditer(re.escape(BOXED), text)]):
        contents = _braced(text[start + len(BOXED) :].lstrip())
        if contents is not None:
            return contents.strip()
    marks = re.findall(r"####\s*(\S[^\n]*)", text)
    return marks[-1].strip() if marks else None


def same_answer(found: str | None, expected: str | None) -> bool:
    """Whether two answers are the same number, or, where they are not numbers, the same text."""
    if found is None or expected is None:
        return False
    numbers = parse_number(found), parse_number(expected)
    if None in numbers:
        return _plain(found) == _plain(expected)
    return numbers[0] == numbers[1]


def majority(answers: Sequence[str | None]) -> int:
    """The index of the first of those answers that most of the others are the same as; no answer has no vote."""
    votes = [sum(same_answer(answer, other) for other in answers) for answer in answers]
    return votes.index(max(votes))


def parse_number(text: str) -> Fraction | None:
    """The one number in an answer, whatever currency, unit, grouping or LaTeX stands around it; None if not one.

    `$1,234.50` is 2469/2, `18\\text{ eggs}` is 18, `\\frac{1}{2}` and `1/2` are 1/2, `50\\%` is 50.
    """
    text = _plain(text)
    text = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", text)
    number = r"-?(?:\d+\.?\d*|\.\d+)"
    fraction = re.fullmatch(rf"(-?)\\[dt]?frac\{{({number})\}}\{{({number})\}}", text)
    if fraction:
        top, bottom = Fraction(fraction[2]), Fraction(fraction[3])
        return None if bottom == 0 else (-1 if fraction[1] else 1) * top / bottom
    match = re.fullmatch(rf"[^\d.\-/]*({number})(?:/({number}))?(?:\D.*)?", text)
    if not match or re.search(r"\d", text[match.end(2) if match[2] else match.end(1) :]):
        return None
    bottom = Fraction(match[2] or 1)
    return None if bottom == 0 else Fraction(match[1]) / bottom


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
    """Without LaTeX dress, currency signs and white space."""
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[,;:! ]|\\left|\\right|\\?\$|\\?%|[€£]", "", text)
    return " ".join(text.replace("−", "-").replace("{,}", ",").split()).rstrip(".")
