"""Asks math-verify whether two formulas are the same: roots, powers, sets, tuples, intervals, expressions.

The library reads whatever it is given as some formula (`3(4)` as 7, `12 apples and 3 pears` as 12) and may compute for
hours (`9^9^9^9`). So it sees only texts that consist of listed signs, are short and have small exponents, and two of them
only if they have the same brackets, commas and relations.
"""

import functools
import logging
import re

LONGEST = 120  # characters
DEEPEST = 5  # brackets within each other
LARGEST_EXPONENT = 99
LARGEST_EXPONENT_OF_A_SUM = 12  # behind a bracket: it is multiplied out
MOST_LETTERS, SMALL_EXPONENT = 3, 3  # with more letters a sum has an exponent that is no larger
LARGEST_DEGREE = 6  # of an equation, which is solved
# In an equation, what math-verify solves for hours, or wrongly: it passes |x| + |y| = 2 for |x - 1| + |y| = 2.
UNSOLVED = re.compile(r"\||\\(?:sqrt|sin|cos|tan|log|ln|binom)(?![A-Za-z])|\^\{?-?[A-Za-z]")
FUNCTION = re.compile(r"\\(?:sin|cos|tan|log|ln)(?![A-Za-z])")

MIRRORED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
RELATION = re.compile(r"\\(?:leq|geq|ne)(?![A-Za-z])")
JOINED = re.compile(r",? ?(?:\\text ?\{ ?(?:and|or) ?\}|\b(?:and|or)\b) ?")
SPELLINGS = [
    (r"\\\\", r"\\cr "),  # ends a matrix's row, and is not the beginning of another command
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
    (r"\\binom\s*(\d)\s*(\d)(?!\d)", r"\\binom{\1}{\2}"),
    (r"\\(?:left|right|displaystyle|q?quad)(?![A-Za-z])|\\[,;:! ()\[\]]|[~$]", " "),
    (r"\\(?:le|leqslant)(?![A-Za-z])", r"\\leq"),
    (r"\\(?:ge|geqslant)(?![A-Za-z])", r"\\geq"),
    (r"\\neq(?![A-Za-z])|≠", r"\\ne"),
    (r"−|–", "-"),
    (r"×", r"\\times "),
    (r"÷", r"\\div "),
    (r"π", r"\\pi "),
    (r"√(\d+)", r"\\sqrt{\1}"),
    (r"∪", r"\\cup "),
    (r"∞", r"\\infty "),
    (r"≤", r"\\leq "),
    (r"≥", r"\\geq "),
    (r"(?<=\d)e([+-]?\d{1,2})(?!\d)", r"\\cdot 10^{\1}"),  # 1.5e6
    (r" ?\^ ?", "^"),
    (r"\\log_(?:\{(\d{1,2})\}|(\d)) ?", r"\\log_{\1\2}"),
    (r"\^\{(-?)\\frac\{(\d+)\}\{(\d+)\}\}", r"^{\1\2/\3}"),
    (r"\^(-\d{1,2}|\d{2})(?!\d)", r"^{\1}"),
    (r"^[^<>]*$", lambda m: m[0] if RELATION.search(m[0]) else JOINED.sub(", ", m[0])),  # 1 and 2
    (r"^(?:[A-Za-z]_(?:\w|\{\w+\})|\([a-z](?:, ?[a-z])+\)) ?= ?(?=[^=]*$)", ""),  # a_n =, (x, y) =
    # x = 1, x = 2
    (r"^(([A-Za-z]) ?= ?[^,=]+)((?:, ?\2 ?= ?[^,=]+)+)$", lambda m: m[1] + re.sub("[A-Za-z] ?= ?", "", m[3])),
    (r"^([A-Za-z] ?= ?)?([^,;=<>]*?)\\pm ?([^,;=<>]+)$", lambda m: _both_signs(*m.groups(""))),
    (r"^([-\d./ ]+)(<|>|\\leq|\\geq) ?([a-z])$", lambda m: f"{m[3]} {MIRRORED[m[2]]} {m[1]}"),  # 5 < x
    (r"(?<=[\d)])\(|(?<=\)) +\(", r"\\cdot ("),  # a number before a bracket would be added to it
    (r"\\cr ", r"\\\\"),
    (r"\s+", " "),
    (r"^ | ?[.,]? ?$", ""),
]
COMMAND = (
    r"\\(?:frac|sqrt|pi|theta|alpha|beta|cdot|times|div|cup|cap|infty|emptyset|leq|geq|ne|pm|in|log|ln|sin|cos|tan|arcsin|arccos|arctan|binom)"
    r"(?![A-Za-z_])|\\log_\{\d+\}|\\(?:begin|end)\{[pb]?matrix\}|\\\\"
)
FORMULA = re.compile(
    rf"(?:{COMMAND}|\\[{{}}]|\d{{1,15}}(?!\d)|[xyz]{{2,3}}(?![A-Za-z])|(?<![A-Za-z])[A-Za-z](?![A-Za-z])"
    r"|[-+*/^=<>!()\[\]{}|.,;& ])+"
)
# What math-verify would read in another way than it is meant, or would not finish.
REFUSED = re.compile(
    r"[-+*/^=] ?[-+*/=] ?[-+*/=]|[-+] ?[-+]|\*\*"  # operations without an operand
    r"|\d \(|^\d+(?:[.,]\d+)*(?: ?- ?\d[\d.,]*)+$|^\d+/\d+/"  # 18 (9 * 2) is a note, 10-15 a range, 1/2/2020 a date
    r"|\d \.?\d|\d\.\d*\.|\.\.|\d, ?\d{3}(?!\d)"  # 12 5 would be 17; 1, 234 may be a number or two
    r"|\^ ?(?!(?:[\dA-Za-z](?!\d)|\{[-+/\dA-Za-z]{1,8}\})(?! ?[\^!]))"  # exponents that are more than a small sum
    r"|(?<!\d)!|\d{3,}!|! ?[!^]|\\infty ?\^|\\binom(?! ?\{(?:\d{1,2}|[a-z])\} ?\{\d{1,2}\})"
    r"|[-+*/^=<>(\[{] ?$|^[*/=^]"  # a part of a formula
    r"|\\frac ?\d|/ ?\d+ ?(?:[A-Za-z(]|\\(?:pi|sqrt|theta|alpha|beta))"  # \frac123; 1/3x may be x/3 or 1/(3x)
    r"|\\(?:sin|cos|tan|log|ln)\^\{?\d\d|\\binom\{[a-z]\}\{\d\d\}"  # expanded, these have no end
)
NAMES = [r"[A-Za-z](?: ?\( ?[a-z] ?\))? ?= ?(?=[^=]*$)", r"[A-Za-z] ?\\in ?"]  # what is before an answer only names it
NUMBER = r"[^A-Za-z<>=,]*"
INTERVAL = re.compile(r"([(\[])([^,]+),([^,]+)([)\]])")
BOUND = re.compile(rf"([a-z]) ?(<|>|\\leq|\\geq) ?({NUMBER})")
BOUNDS = re.compile(rf"({NUMBER}?) ?(<|\\leq) ?[a-z] ?(<|\\leq) ?({NUMBER})")


def _both_signs(name: str, left: str, right: str) -> str:
    """The two values of left ± right, unless the sign stands within brackets."""
    if any(left.count(opened) != left.count(closed) for opened, closed in ("{}", "()")):
        return f"{name}{left}\\pm {right}"
    return f"{name}{left and left + '+'}{right}, {left}-{right}"


def is_mathematics(text: str) -> bool:
    """Whether math-verify may be asked about the text: it is a formula, and of a size that is computed in no time."""
    return _formula(text) is not None


def same_mathematics(found: str, expected: str) -> bool:
    """Whether both texts are formulas of the same form and value; False if math-verify cannot tell."""
    one, other = _formula(found), _formula(expected)
    if one is None or other is None:
        return False
    for name in NAMES:
        found = re.match(name, one), re.match(name, other)
        if (
            found[0] and "=" not in other
        ):  # x = 1 is 1, but not y = 1, and y = x is no longer that where an equation is meant
            one = one[found[0].end() :]
        elif found[1] and "=" not in one:
            other = other[found[1].end() :]
    if INTERVAL.fullmatch(one) or INTERVAL.fullmatch(other):
        one, other = _as_interval(one), _as_interval(other)
    if _letters(one) != _letters(other) or ("=" in one and UNSOLVED.search(one + other)):
        return False
    if _shape(one) != _shape(other) or not _same_case(one, other) or not _same_repeats(one, other):
        return False
    return _verified(one, other)


def _letters(formula: str) -> set[str]:
    """The variables of a formula."""
    return set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", formula))


def _same_case(one: str, other: str) -> bool:
    """Whether no letter is large in one and small in the other; math-verify takes N for n."""
    letters = _letters(one), _letters(other)
    return all(letter.swapcase() not in letters[1] - letters[0] for letter in letters[0] - letters[1])


def _as_interval(formula: str) -> str:
    """The interval that a bound like x > 2, or two, stand for; another formula as it is."""
    if bounds := BOUNDS.fullmatch(formula):
        low, opens, closes, high = bounds.groups()
        return f"{'(' if opens == '<' else '['}{low},{high}{')' if closes == '<' else ']'}"
    bound = BOUND.fullmatch(formula)
    if not bound:
        return formula
    _, relation, number = bound.groups()
    if relation in (">", "\\geq"):
        return f"{'(' if relation == '>' else '['}{number},\\infty)"
    return f"(-\\infty,{number}{')' if relation == '<' else ']'}"


def _same_repeats(one: str, other: str) -> bool:
    """Whether what stands twice in one list does so in the other; math-verify takes lists for sets."""
    if one.startswith(("(", "[")):  # an ordered one
        return True
    items = [sorted(re.sub(r"^(?:\\\{|[(\[])|(?:\\\}|[)\]])$| ", "", text).split(",")) for text in (one, other)]
    return all(len(set(found)) == len(found) for found in items) or items[0] == items[1]


def _formula(text: str) -> str | None:
    if len(text) > LONGEST:
        return None
    for pattern, replacement in SPELLINGS:
        text = re.sub(pattern, replacement, text)
    if re.search(r"[\d\\^+/=]", text):  # else it may be a word
        # math-verify would take letters behind a space for a unit, and leave them out: 5 t would be 5.
        text = re.sub(r"(?<=\d) (?=[A-Za-z](?![A-Za-z]))", "", text)
        text = re.sub(r"(?<![A-Za-z\\])(?<!\d )[a-z]{2,3}(?![A-Za-z{])", lambda m: r"\cdot ".join(m[0]), text)
        text = re.sub(r"(?<![A-Za-z\\])([A-Za-z]) (?=[A-Za-z](?![A-Za-z]))", r"\1\\cdot ", text)
    if not FORMULA.fullmatch(text) or REFUSED.search(text) or not re.search(r"[\dA-Za-z]", text):
        return None
    return text if _is_small(text) else None


def _is_small(formula: str) -> bool:
    depth = deepest = 0
    for sign in formula:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    product = largest = 1
    for behind, exponent in re.findall(r"([)\]}]?) ?\^ ?(\{[^{}]*\}|.)", formula):
        size = max(map(int, re.findall(r"\d+", exponent)), default=1)
        product *= max(size, 1) if behind else 1
        largest = max(largest, size)
        if size > LARGEST_EXPONENT:
            return False
    letters = _letters(formula)
    if len(letters) > MOST_LETTERS and product > SMALL_EXPONENT:
        return False
    if "=" in formula and letters and (largest > LARGEST_DEGREE or product > LARGEST_DEGREE):
        return False
    if FUNCTION.search(formula) and product > SMALL_EXPONENT:
        return False
    return depth == 0 and deepest <= DEEPEST and product <= LARGEST_EXPONENT_OF_A_SUM


def _shape(formula: str) -> tuple:
    """The commas with the brackets around them, the relations and the signs that mean two values, in order."""
    opened, enclosing = [], []
    for sign in re.findall(r"\\[{}]|[()\[\]{},;]", formula):
        if sign in ("(", "[", "{", "\\{"):
            opened.append([sign, 0])
        elif sign in (",", ";"):
            (opened or [["", 0]])[-1][1] += 1
            enclosing += [] if opened else [("", sign)]
        elif opened and (inner := opened.pop())[1]:
            enclosing.append((inner[0], inner[1], sign))
    marks = re.findall(r"[=<>]|\\(?:leq|geq|ne|pm|cup|cap|in)(?![a-z])", formula)
    # Unions may be written in any order, the entries of a matrix may not.
    return sorted(map(str, enclosing)), sorted(marks), re.findall(r"&|\\\\|\{.?matrix", formula)


@functools.lru_cache(maxsize=4096)
def _verified(found: str, expected: str) -> bool:
    """math-verify's judgement. Its limits of time are signals, which only a main thread gets, so they are off."""
    import math_verify  # takes half a second to import

    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it says at each call that there is no limit of time
    config = [math_verify.LatexExtractionConfig()]
    try:
        one, other = (
            math_verify.parse(f"${formula}$", config, fallback_mode="no_fallback", parsing_timeout=None)
            for formula in (found, expected)
        )
        if not one or not other or re.search("zoo|nan", f"{one[0]} {other[0]}"):
            return False
        return math_verify.verify(other, one, float_rounding=12, numeric_precision=30, timeout_seconds=None)
    except Exception:  # whatever SymPy stumbles over is not the same
        return False
