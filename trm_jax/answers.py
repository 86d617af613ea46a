"""The final answer of a worked solution, and when two answers are the same. Knows no model."""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

BOXED = "\\boxed"

# An unsigned number: 1,234.50, 12., .5. Commas group by three, or it is none.
DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)|\d+(?!,?\d))(?:\.\d*)?|\.\d+"
VALUE = rf"(?P<sign>(?:(?<![\w).])-)?)(?:(?P<whole>\d+) (?=\d+ ?/))?(?P<top>{DIGITS})(?: ?/ ?(?P<bottom>{DIGITS}))?"
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALE = rf"(?P<scale>(?:[ -]?(?i:{'|'.join(SCALES)})s?\b){{0,2}})"
# Before a number: words, a colon. Behind it: a unit, in letters. Neither is a variable, a power or another operation.
# Letters of other alphabets are no unit: Greek ones are variables, and number words could not be told from units.
BEFORE = r"(?:[^\d\\^_+*/(){}-]*[^\w\\^_+*/(){}.,!-])?"
LATIN, CJK, POWER = r"A-Za-zÀ-ÖØ-öø-ɏ", r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af", r"(?:\^\{?[23]\}?)?"
UNIT = rf"(?:[mglLshd]|[{CJK}]+|[{LATIN}]{{2,}}\.?){POWER}"
# Directly at the number only what cannot be a product of variables.
GLUED = (
    rf"(?:[kcm]?[mglL]|[shd]|ft|in|lbs?|oz|hrs?|min|sec|[mk]ph|[ap]m|[{CJK}]+|[{LATIN}]{{4,}}|/[{LATIN}]{{3,}}){POWER}"
)
UNITS = rf"(?:{GLUED}|-[{LATIN}]{{2,}}| {UNIT}|, ?[{LATIN}]{{2,}}| a(?= ))(?:(?: |/|, ?|; ?|-){UNIT}| a(?= ))*"
BEHIND = rf"(?:{UNITS})?(?:(?<=[^\W\d_])[ .!?]*|[ .?]*)"  # 5! is 120, but behind a word it is an exclamation
# Before an equals sign: a name, or a calculation. Unknowns and numbers together are an equation, or two answers.
STEP = rf"[^\d\\^+*/!,;-]*|{BEFORE}(?:\\[a-z]+|[^\w\\,;]|\d|,(?=\d{{3}}(?!\d)))*[\d)}}] *"
LONGEST = 200  # characters of a number and what stands around it
# Words that make another number of it; the number itself is #.
COUNTS = (
    rf"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|{'|'.join(SCALES)}|lakh|crore)s?"
    r"|(?:twen|thir|four?|fif|six|seven|eigh|nine)t(?:y|een)|\w*illi?[oó]n\w*|mil|mille|m?ln|[mbt]n|hal(?:f|ves)"
    r"|(?:third|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)th)s?|quarters?(?= of)"
)
OPERATIONS = (
    r"minus|negative|below|twice|double|triple|not|or|plus|times(?= [^a])|divided|multiplied|squared|cubed|factorial"
    r"|(?:square|cube) of|root|sqrt|mod|log|ln|sin|cos|tan|pi"
)
CHANGES = re.compile(rf"(?<!\\)\b(?:{COUNTS}|{OPERATIONS})\b|\b(?:than|[^\W\d_aAI]) #|[半십백천만억조]", re.IGNORECASE)
# In running text: the word that a number stands in, unless it is like x7 or 7th, and what changes it from outside.
RUN = r"[^\s=]*"
CHANGED_BEFORE = (
    rf"(?:(?:[^\s=\\^]*[\\^]{RUN}|{RUN}[)}}] [-+*/]|[^\W\d_aAI](?: [-+*/])?"
    rf"|[^\w\s=]*(?:(?:{OPERATIONS}|than)\b(?: of)?|(?:{COUNTS}) of)) ){{0,3}}"
)
VARIABLE = r"[^\W\d_aAI](?!['’\w])"
CHANGED_BEHIND = (
    rf"(?:(?<![.,;:!?]) (?:\d{RUN}|[\\^]{RUN}|[^\w\s=.,;!?'\"()]+ (?:{RUN}[\d\\]|{VARIABLE}){RUN}|{VARIABLE}{RUN}"
    rf"|(?:(?:and|an?|point|over|by) )*(?:{COUNTS}|{OPERATIONS})\b{RUN}(?: of(?= \d))?))*"
)
WORD = r"[^\w\s\\]*(?:[^\W\d]+\d|\d+(?:st|nd|rd|th)\b)"
LOOSE = re.compile(rf"(?<![^\s=]){CHANGED_BEFORE}(?!{WORD}){RUN}\d{RUN}{CHANGED_BEHIND}", re.IGNORECASE)


class FinalAnswer(NamedTuple):
    """What a solution ends in, and how it says so."""

    text: str
    form: Literal["boxed", "marked", "number"]


def find_answer(solution: str) -> FinalAnswer | None:
    """The contents of the last whole `\\boxed{…}` with any, else what follows the last `####`, else the last number.

    None if there is nothing of that, or if the last number is not read whole: an earlier one would not be the answer.
    """
    for start in reversed([match.start() for match in re.finditer(re.escape(BOXED), solution)]):
        contents = _braced(solution[start + len(BOXED) :].lstrip())
        if contents and _plain(contents):
            return FinalAnswer(contents.strip(), "boxed")
    if marks := re.findall(r"####\s*(\S[^\n]*)", solution):
        return FinalAnswer(marks[-1].strip(), "marked")
    lines = solution.replace(BOXED, " ").splitlines()
    words = [word for line in lines for word in LOOSE.findall(_symbols(_plain(line)))]
    number = words[-1].lstrip("([{*_`'\"“‘").rstrip(")]}*_`'\"”’.,;:!?-") if words else ""
    return FinalAnswer(number, "number") if parse_number(number) is not None else None


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
    `3 + 4 = 7` is 7; `5x`, `10^3`, `5²`, `5\\pi`, `5!`, `2x = 10`, `1,23`, `3 or 4` and `5 and a half` are none.
    """
    text = _symbols(_plain(text))
    if len(text) > LONGEST:
        return None
    *steps, text = (part.strip() for part in text.split("="))
    text = re.sub(r"^\(([^(){}\[\],]*)\)$|^\{([^(){}\[\],]*)\}$", r"\1\2", text).strip()
    match = re.fullmatch(rf"(?P<before>{BEFORE}){VALUE}{SCALE}(?P<behind>{BEHIND})", re.sub(r"^- ", "-", text))
    if match is None or not all(re.fullmatch(STEP, step) for step in steps):
        return None
    if CHANGES.search(" ; ".join([*steps, f"{match['before']}#{match['behind']}"])):
        return None
    defaults = {"whole": "0", "top": "", "bottom": "1"}
    whole, top, bottom = (Fraction((match[name] or other).replace(",", "")) for name, other in defaults.items())
    if bottom == 0 or (match["whole"] and top >= bottom):
        return None
    value = whole + top / bottom
    for word in re.findall(r"[a-z]+", match["scale"].lower()):
        value *= SCALES[word.removesuffix("s")]
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


def _symbols(text: str) -> str:
    """With ^ for every other sign of arithmetic (×, √, ≤, |) and every numeral that is no plain digit (², ½, 万)."""
    text = re.sub(r"(?<=[a-z])[²³]", lambda power: f"^{unicodedata.normalize('NFKC', power[0])}", text)
    return "".join("^" if _is_symbol(one) else one for one in text)


def _is_symbol(one: str) -> bool:
    """Whether a character changes what number a text is, without being part of a number or of the rules above."""
    if one.isascii():
        return one in "<>|"
    return unicodedata.category(one) == "Sm" or unicodedata.numeric(one, None) is not None


def _plain(text: str) -> str:
    """Without LaTeX dress, currency signs, percent signs, degrees and needless white space; fractions as 1/2."""
    text = "".join("-" if unicodedata.category(one) == "Pd" or one == "−" else one for one in text)
    text = re.sub(r"<<[^<>]*>>|\\!", "", text.replace("{,}", ","))  # GSM8K's calculator notes, negative space
    text = re.sub(r"([!<>])=", r"\1≠", text)  # no equation
    text = re.sub(r"!(?=\$|\\[)\]])", "^!", text)  # a factorial: an exclamation is no formula
    text = re.sub(r"(?<![\w)}])\*\*|\*\*(?![\w({\\-])", "", text)
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}", r" \1", text)
    text = re.sub(r"(?<=\d)\s*(?=\\[dt]?frac)", " ", text)
    text = re.sub(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))", r"\1\2/\3\4 ", text)
    text = re.sub(r"(?:\^\s*\{?\s*\\circ\s*\}?|°)(?:\s*[CF]\b)?", " ", text)
    text = re.sub(r"\\[,;: ]|~|\\(?:left|right)(?![a-zA-Z])|\\[()\[\]]", " ", text)
    text = re.sub(r"(?<=[\d.,])(?:\\?[%$€£])+(?=[.,]?\d)", " ", text)  # 5$6 is not 56
    text = " ".join(re.sub(r"\\?[%$€£]", "", text).split())
    return re.sub(r"= ?- ", "= -", text).removesuffix(".")
