"""Reads a number in whatever dress it stands: currency, units, grouping, percent, LaTeX.

Everything is listed: what is taken off, what may stand before a number and behind it, and what changes its value. What
is in no list makes the text no number, because a wrong answer could otherwise be graded as right.
"""

import re
import unicodedata
from fractions import Fraction
from itertools import pairwise

LONGEST = 200  # characters of an answer; a longer one is not read as a number

# What is taken off, or written in one way, in this order.
DRESS = [
    (r"<<[^<>]*>>|\\!", ""),  # GSM8K's calculator notes, negative space
    (r"\{,\}", ","),
    (r"(?<![\d,.])(\d{1,9})\.(\d{0,9})\\overline\s*\{(\d{1,9})\}(?!\d)", lambda m: _repeating(*m.groups())),
    (r"(?<![\d,.])(\d{1,3})((?:\\[ ,;:]\d{3})+)(?![\d./,])", lambda m: m[1] + re.sub(r"\D", "", m[2])),  # 10\,000
    (r"([!<>])=", r"\1≠"),  # these are no equals signs
    (r"!(?=\$|\\[)\]])", "^!"),  # at the end of a formula it is a factorial, not an exclamation
    (r"(?<![\w)}])\*\*|\*\*(?![\w({\\-])", ""),  # bold in Markdown
    (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}", r" \1"),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"(?<=\d)\s*(?=\\frac)", " "),  # 2\frac12
    (r"\\frac\s*(?:\{(-?[^{}-]*)\}|(\d))\s*(?:\{([^{}-]*)\}|(\d))", r"\1\2/\3\4 "),
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

SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty"
).split()
# Words that change the value of the number beside them: other numbers, fractions, and operations.
NUMBER_WORDS = frozenset(
    "thirty forty fifty sixty seventy eighty ninety lakh crore mil mille millón millones mln mn bn tn mio mrd milliard"
    " milliarden myriad half halve third"
    " fourth fifth sixth seventh eighth ninth tenth hundredth thousandth".split()
).union(SCALES, SMALL)
OPERATION_WORDS = frozenset(
    "plus minus negative times divided multiplied twice double triple squared cubed factorial root sqrt mod log ln"
    " sin cos tan pi below than or not never isn't except opposite negation inverse reciprocal thrice doubled halved tripled"
    " multiple binary".split()
)
PART_WORDS = frozenset("quarter quarters square cube".split())  # these only before "of": 5 quarters may be coins
JOINING_WORDS = frozenset("and a an point over by of".split())  # 5 and a half, 5 point five, 5 over two

WORD = r"[^\W\d_]+(?:['’][^\W\d_]+)*"
DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"  # commas group by three
BEFORE = rf"(?:{WORD}(?:[.,:;?!]* |:))*['\"“‘]*"
# Greek letters are variables, and for other scripts than Latin and Chinese no number words are listed.
LATIN = r"[A-Za-zÀ-ÖØ-öø-ɏ]"
UNIT = rf"(?:{LATIN}{{2,}}(?:['’]{LATIN}+)?|[mglLshd]|a(?= )|[\u3400-\u9fff]+)(?:\^[23])?"
GLUED = rf"(?:{LATIN}{{4,}}|[\u3400-\u9fff]+"  # behind a number without a space
GLUED += r"|(?:[gl]L?|L|[mck]m|[mk]g|m[lL]|ft|in|lbs?|oz|hrs?|min|sec|day|[mk]ph|am|pm)(?!\w))"
QUANTITY = re.compile(
    rf"(?P<before>{BEFORE})(?P<sign>- ?)?(?:(?P<whole>\d+) (?=[^/]*/))?(?P<top>{DIGITS})"
    rf"(?: ?/ ?(?P<bottom>{DIGITS})|e(?P<power>-?\d{{1,2}}))?"
    rf"(?P<behind>(?:{GLUED}(?:\^[23])?)?(?:(?:[,;]? ?!? |/)\(?{UNIT}\)?)*)(?P<end>[.,;?!'\"”’]*)"
)
NAME = re.compile(rf"(?:{WORD}[.:'()]* ?)*")  # before an equals sign
CALCULATION = re.compile(
    rf"(?:[^:\d=]*: ?(?=[\d(\[{{√\\-])|(?:{WORD} )*(?=\d)|)"
    r"(?:[-+*/×÷·^!()\[\]{}.,\d ]|\\times|\\cdot|\\div|\\sqrt)*(?<![-+*/×÷·^(\[{]) ?"
)


def parse_number(text: str) -> Fraction | None:
    """The one number in an answer, whatever currency, unit, grouping or LaTeX stands around it; None if it is not one.

    `$1,234.50` is 2469/2, `18\\text{ eggs}` is 18, `\\frac{1}{2}` and `1/2` are 1/2, `2 million` is 2,000,000.
    `3 + 4 = 7` is 7; `5x`, `10^3`, `5²`, `5\\pi`, `5!`, `2x = 10`, `1,23`, `3 or 4` and `5 and a half` give None.
    """
    text = undressed(text)
    if len(text) > LONGEST:
        return None
    *steps, last = (side.strip() for side in text.split("="))
    if not all(_is_step(step) for step in steps):
        return None
    last = re.sub(r"^(?:\(([^(){}\[\],]*)\)|\{([^(){}\[\],]*)\})$", r"\1\2", last).strip()  # (1,2) may be a point
    if last.casefold() in SMALL:
        return Fraction(SMALL.index(last.casefold()))
    match = QUANTITY.fullmatch(last)
    return _value(match) if match else None


def _repeating(whole: str, decimals: str, period: str) -> str:
    """A decimal number with a period, as a fraction: 0.8333… is 5/6."""
    nines = 10 ** (len(decimals) + len(period)) - 10 ** len(decimals)
    return str(Fraction(int(whole + decimals + period) - int(whole + decimals), nines))


def _value(match: re.Match) -> Fraction | None:
    """The value of a number with its scale; None if a word around it changes it, or if it is no fraction."""
    before, behind = _words(match["before"]), _words(match["behind"])
    if before and (len(before[-1]) == 1 and match["before"][-2:].strip() not in ("a", "A", "I")):
        return None  # the last letter may be a variable, and the text a product
    if match["end"].startswith("!") and not behind:
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
    return None if _is_changed([*before, "#", *behind]) else value


def _is_step(side: str) -> bool:
    """Whether a side before an equals sign is a name or a calculation; with unknowns in it, it would be an equation."""
    if _is_changed(_words(side)):
        return False
    return NAME.fullmatch(side) is not None or (CALCULATION.fullmatch(side) is not None and any(map(str.isdigit, side)))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in re.findall(rf"(?<!\\){WORD}", text)]


def _changes(word: str) -> bool:
    """Whether this word changes the value of a number beside it."""
    return word in OPERATION_WORDS or word.removesuffix("s") in NUMBER_WORDS or "illion" in word


def _is_changed(words: list[str]) -> bool:
    """Whether one of the words around a number, which stands as #, changes its value."""
    return any(
        (word in PART_WORDS and after == "of")
        or (_changes(word) and not (word == "times" and after in ("", "a", "an", "as")))  # 3 times a day
        for word, after in pairwise([*words, ""])
    )


def last_number(line: str) -> str | None:
    """The expression around the last number of a line; empty if it may be negative or not, None if there is no number.

    The pieces between spaces are looked at; what an operation, a number word or a variable ties to the number is part
    of the expression, which is then a number as a whole or none.
    """
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
    if word in JOINING_WORDS or left == "of" or _changes(word) or word in PART_WORDS:
        return True
    if _has_number(right) and (_has_number(left) or _changes(left.casefold())):
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
    return "".join(one if one.isascii() or unicodedata.numeric(one, None) is None else "^" for one in text).strip()
