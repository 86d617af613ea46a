"""Reads a number in whatever dress it stands: currency, units, grouping, percent, LaTeX.

Everything is listed: what is taken off, what may stand before a number and behind it, and what changes its value. What
is in no list makes the text no number, because a wrong answer could otherwise be graded as right.
"""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from trm_jax.data.number_words import (
    JOINING_WORDS,
    PART_WORDS,
    SCALES,
    WORD,
    changes,
    in_digits,
    is_changed,
    is_touched,
    words_of,
)

LONGEST = 200  # characters of an answer; a longer one is not read as a number
LONGEST_LINE = 2000  # characters, of which the last are looked at for a number

NO_FACTOR = r"(?![A-Za-z(^_]|\s*\\(?:pi|sqrt|cdot|times|frac|sin|cos|tan|log|ln|theta|alpha|beta)(?![A-Za-z]))"
GREEK = r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|phi|varphi|omega)(?![A-Za-z])"
SYMBOL = rf"\\angle ?[A-Z]{{1,3}}|(?:{GREEK}|[A-Za-z])(?:_(?:\w|\{{\w+\}}))?"  # that an answer may be named by
# What is taken off, or written in one way, in this order.
DRESS = [
    (r"<<[^<>]*>>|\\!\s*", ""),  # GSM8K's calculator notes, negative space
    (r"\{,\}", ","),
    (r"(\d*\.\d*?)(\d)\2\2+ ?(?:\.\.\.|…|\\l?dots(?![a-z]))", r"\1\\overline{\2}"),  # 0.333...
    (r"(?<=\.)(\d+) ?(?:\.\.\.|…|\\l?dots(?![a-z]))", r"\1^"),  # it goes on, nobody knows how
    (r"(?<![\d,.])(\d{1,9})\.(\d{0,9})\\overline\s*\{(\d{1,9})\}(?!\d)", lambda m: _repeating(*m.groups())),
    (r"(?<![\d,.])(\d{1,3})((?:\\[ ,;:]\d{3})+)(?![\d./,])", lambda m: m[1] + re.sub(r"\D", "", m[2])),  # 10\,000
    (r"([!<>])=", r"\1≠"),  # these are no equals signs
    (r"!(?=\$|\\[)\]])", "^!"),  # at the end of a formula it is a factorial, not an exclamation
    (r"(?<![\w)}])\*\*|\*\*(?![\w({\\-])", ""),  # bold in Markdown
    (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|underline|ang)\s*\{([^{}]*)\}", r" \1"),
    (rf"^[\s$]*(?:m ?)?(?:{SYMBOL}|[a-z]\(\w+\)) ?=", "x ="),
    (r"\b([APap])\. ?([Mm])\b", r"\1\2"),  # a.m.
    (r"\bsq\. ?(?=[a-z])", "sq "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"(?<=\d)\s*(?=\\frac)", " "),  # 2\frac12
    (rf"(?<!\^)(?<!sqrt)\\frac\s*(?:\{{(-?[\d., ]*)\}}|(\d))\s*(?:\{{([\d., ]*)\}}|(\d)){NO_FACTOR}", r"\1\2/\3\4 "),
    (r"(?<=[A-Za-z])\s*/\s*(?=[A-Za-z])", "/"),
    (r"(?:\^\s*\{?\s*\\circ\s*\}?|°)(?:\s*[CF]\b)?", " "),  # degrees
    (r"\\(?:[,;: ()\[\]]|left(?![a-z])|right(?![a-z])|q?quad(?![a-z]))|~", " "),
    (r"(?<=[\d.,])(?:\\?[%$€£])+(?=[.,]?\d)", " "),  # 5$6 is not 56
    (r"\\?[%$€£₹¥¢₽₩]", ""),
    (r"^\s*(?:\\approx(?![a-z]))", ""),
    (r"(?<=\d) ?(?:\\times|\\cdot|[×*]) ?10 ?\^ ?(?:\{(-?\d{1,2})\}|(\d)(?!\d))(?![\d.,!^]*[\d!^])", r"e\1\2"),
    (r"(?<=[a-z])²|\^\{2\}", "^2"),
    (r"(?<=[a-z])³|\^\{3\}", "^3"),
    (r"(?<=\d)-(?=[A-Za-z]{2})", " "),  # 5-pound
    (r"\s+", " "),
    (r"= ?- ", "= -"),
    (r"^ | $|(?<=\w)[.,]+ ?$|\.$", ""),
]

DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"  # commas group by three
BEFORE = rf"(?:{WORD}(?:[.,:;?!]* |:))*['\"“‘]*"
# Greek letters are variables, and for other scripts than Latin and Chinese no number words are listed.
LATIN = r"[A-Za-zÀ-ÖØ-öø-ɏ]"
# Of two letters these alone are units or words; others are products, as xy.
SHORT = (
    "cm|mm|km|dm|kg|mg|ml|mL|cl|dl|ft|in|oz|lb|hr|am|pm|AM|PM|mi|yd|sq|mo|yr|KB|MB|GB|TB|kW|Hz|pi|mn|bn|tn"
    "|of|to|by|on|at|as|is|it|he|us|or|up|no"
)
WORDLIKE = rf"(?:{LATIN}{{3,}}|(?:{SHORT})(?!{LATIN}))(?:['’]{LATIN}+)?"
UNIT = rf"(?:{WORDLIKE}|[mglLshd]|a(?= )|[\u3400-\u9fff]+)(?:\^[23])?"
GLUED = rf"(?:{LATIN}{{4,}}|[\u3400-\u9fff]+"  # behind a number without a space
GLUED += r"|(?:[gl]L?|L|[mck]m|[mk]g|m[lL]|ft|in|lbs?|oz|hrs?|min|sec|day|[mk]ph|am|pm)(?!\w))"
QUANTITY = re.compile(
    rf"(?P<before>{BEFORE})(?P<sign>- ?)?(?:(?P<whole>\d+) (?=[^/]*/))?(?P<top>{DIGITS})"
    rf"(?: ?/ ?(?P<bottom>{DIGITS})|e(?P<power>-?\d{{1,2}}))?"
    rf"(?P<behind>(?!! )(?:{GLUED}(?:\^[23])?)?(?:(?:[,;]? ?!? |/)\(?{UNIT}\)?)*)(?P<end>[.,;?!'\"”’]*)"
)
# Before an equals sign. Words are atomic, or each way to cut their letters into words would be tried.
NAME = re.compile(rf"(?:(?>{WORD})[.:'()]* ?)*")
CALCULATION = re.compile(
    rf"(?:[^:\d=]*: ?(?=[\d(\[{{√\\-])|(?:{WORD} )*(?=\d)|)"
    r"(?:[-+*/×÷·^!()\[\]{}.,\d ]|\\times|\\cdot|\\div|\\sqrt)*(?<![-+*/×÷·^(\[{]) ?"
)
CHANGED_IN_CHINESE = re.compile("[成折半余多]|以[上下内外]")
THOUSANDS = re.compile(r" ?(?:[kKmMbB]|MM)")  # of dollars


class Quantity(NamedTuple):
    """A number and what is counted: the signs and words as they are written."""

    value: Fraction
    unit: str


def parse_number(text: str) -> Fraction | None:
    """The one number in an answer, whatever currency, unit, grouping or LaTeX stands around it; None if it is not one.

    `$1,234.50` is 2469/2, `18\\text{ eggs}` is 18, `\\frac{1}{2}` and `1/2` are 1/2, `2 million` is 2,000,000.
    `3 + 4 = 7` is 7; `5x`, `10^3`, `5²`, `5\\pi`, `5!`, `2x = 10`, `1,23`, `3 or 4` and `5 and a half` give None.
    """
    quantity = parse_quantity(text)
    return quantity and quantity.value


def parse_quantity(text: str) -> Quantity | None:
    """As `parse_number`, with what is counted: `18\text{ eggs}` is 18 of `eggs`.

    Example: `parse_quantity("18\\text{ eggs}").unit.strip()` is `"eggs"`.
    """
    if len(text) > 5 * LONGEST:
        return None
    signs, text = _unit_signs(text), undressed(text)
    if len(text) > LONGEST:
        return None
    *steps, last = (side.strip() for side in text.split("="))
    if not all(_is_step(step) for step in steps):
        return None
    last = re.sub(r"^(?:\(([^(){}\[\],]*)\)|\{([^(){}\[\],]*)\})$", r"\1\2", last).strip()  # (1,2) may be a point
    if not re.search(r"\d|quarter", last):
        last = in_digits(last)
    match = QUANTITY.fullmatch(last)
    if match and (
        CHANGED_IN_CHINESE.search(match["behind"]) or ("$" in signs and THOUSANDS.fullmatch(match["behind"]))
    ):
        return None
    value = match and _value(match)
    return None if value is None else Quantity(value, f"{signs} {match['behind']}")


def _unit_signs(text: str) -> str:
    """The signs of currency, percent and degrees in an answer as it stands; dollars in pairs enclose a formula."""
    text = text.replace("\\circ", "°")
    signs = re.findall(r"[€£₹¢¥₩₽%°]", text) + re.findall(r"°\W*(?:text\s*\{\s*)?([CF])\b", text)
    dollars = text.count("\\$") or text.count("$") % 2
    return " ".join(["$"] * dollars + signs)


def _repeating(whole: str, decimals: str, period: str) -> str:
    """A decimal number with a period, as a fraction: 0.8333… is 5/6."""
    nines = 10 ** (len(decimals) + len(period)) - 10 ** len(decimals)
    return str(Fraction(int(whole + decimals + period) - int(whole + decimals), nines))


def _value(match: re.Match) -> Fraction | None:
    """The value of a number with its scale; None if a word around it changes it, or if it is no fraction."""
    before, behind = words_of(match["before"]), words_of(match["behind"])
    if before and (len(before[-1]) == 1 and match["before"][-2:].strip() not in ("a", "A", "I")):
        return None  # the last letter may be a variable, and the text a product
    if match["end"].startswith("!") and not behind:
        return None
    if is_touched(before, behind):
        return None
    value = Fraction(match["top"].replace(",", "")) * Fraction(10) ** int(match["power"] or 0)
    if match["bottom"]:
        bottom = Fraction(match["bottom"].replace(",", ""))
        if not bottom or (match["whole"] and value >= bottom):
            return None
        value /= bottom
    elif match["whole"]:
        return None
    value = (value + int(match["whole"] or 0)) * (-1 if match["sign"] else 1)
    while behind and behind[0].removesuffix("s") in SCALES:
        value *= SCALES[behind.pop(0).removesuffix("s")]
    return None if is_changed([*before, "#", *behind]) else value


def _is_step(side: str) -> bool:
    """Whether a side before an equals sign is a name or a calculation; with unknowns in it, it would be an equation."""
    if is_changed(words_of(side)):
        return False
    return NAME.fullmatch(side) is not None or (CALCULATION.fullmatch(side) is not None and any(map(str.isdigit, side)))


def last_number(line: str) -> str | None:
    """The expression around the last number of a line; empty if it may be negative or not, None if there is no number.

    The pieces between spaces are looked at; what an operation, a number word or a variable ties to the number is part
    of the expression, which is then a number as a whole or none.
    """
    if len(line) > LONGEST_LINE:
        line = line[-LONGEST_LINE:].partition(" ")[2]
    line = re.sub(r"(?<=[\u3400-\u9fff，。：；])(?<![负第过于到近])(?=[-$¥]?\d)", " ", line)
    line = re.sub(r" — (?=[^\W\d])", "; ", line)  # a dash before a word is no minus
    line = re.sub(r"^[-*+•] ", "", undressed(line))  # nor is a list's bullet
    pieces = line.replace("=", " = ").split()
    start = next((at for at in reversed(range(len(pieces))) if _has_number(pieces[at])), None)
    if start is None:
        return None
    end = start + 1
    while start > 0 and _is_joined(pieces[start - 1], pieces[start]):
        start -= 1
    while end < len(pieces) and _is_joined(pieces[end - 1], pieces[end]):
        end += 1
    while pieces[end - 1] in JOINING_WORDS:  # they joined nothing
        end -= 1
    text = " ".join(pieces[start:end]).lstrip("([{*_`'\"“‘").rstrip(")]}*_`'\"”’.,;:!?- 。")
    return "" if text.startswith("- ") else text  # a dash, or a minus


def _has_number(piece: str) -> bool:
    """Whether there are digits in it that are no part of a name like x7 or of an ordinal like 7th."""
    return re.search(r"(?<![A-Za-z0-9_])(?![0-9]+(?:st|nd|rd|th)\b)[0-9]", piece) is not None


def _is_joined(left: str, right: str) -> bool:
    """Whether two neighbours in running text belong to one expression."""
    if "=" in (left, right):
        return False
    is_signed = re.match(r"-[0-9.]", right)  # a minus glued to a number behind a space is its sign
    if (
        _is_operation(left[-1])
        or (_is_operation(right[0]) and not is_signed)
        or left.startswith("\\")
        or ":" in (left, right)
    ):
        return True
    if left[-1] in ".,:;?!)" or right[0] in "('\"":
        return False
    word = right.strip(".,:;?!").casefold()
    if word in JOINING_WORDS or left == "of" or changes(word) or word in PART_WORDS:
        return True
    if _has_number(right) and (_has_number(left) or changes(left.casefold())):
        return True
    return any(len(one) == 1 and one.isalpha() and one not in "aAI" for one in (left, word))


def _is_operation(sign: str) -> bool:
    return not sign.isalnum() and sign not in ".,;:!?()[]{}'\"“”‘’…`_#。"


def undressed(text: str) -> str:
    """The text without LaTeX's commands for text, currency and percent signs, degrees and needless white space."""
    text = "".join("-" if unicodedata.category(one) == "Pd" or one == "−" else one for one in " ".join(text.split()))
    for pattern, replacement in DRESS:
        text = re.sub(pattern, replacement, text)
    # A numeral that is no plain digit, like ½, ² or 万, is an operation.
    return "".join(
        f"^{one}" if not one.isascii() and unicodedata.numeric(one, None) is not None else one for one in text
    ).strip()
