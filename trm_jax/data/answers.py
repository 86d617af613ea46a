"""Finds the final answer of a worked solution, and tells whether two answers are the same.

An answer is split into tokens: numbers, words and symbols. It counts as a number only if what stands around its one number
is known not to change it. In doubt it is not a number, because a wrong answer could otherwise be graded as right.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple

LONGEST = 200  # characters of an answer; a longer one is not read as a number

TOKEN = re.compile(
    r"(?P<name>[^\W\d_]+[0-9]\w*|[0-9]+(?:st|nd|rd|th)\b)"  # x7 and 7th are no numbers
    r"|(?P<number>(?:(?<![^\s=('\":])-)?(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+))"
    r"|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)"
    r"|(?P<symbol>\\[A-Za-z]+|\^[23](?![0-9.,])|\S)"  # a command, a square or a cube, any other character
)
DECIMAL = re.compile(r"-?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]+)?")  # commas group by three

SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words that change the value of the number beside them: other numbers, fractions, and operations.
NUMBER_WORDS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety lakh crore mil mille millón millones"
    " mln mn bn tn half halve third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth".split()
).union(SCALES)
OPERATION_WORDS = frozenset(
    "plus minus negative times divided multiplied twice double triple squared cubed factorial root sqrt mod log ln"
    " sin cos tan pi below than or not".split()
)
PART_WORDS = frozenset("quarter quarters square cube".split())  # these only before "of": 5 quarters may be coins
JOINING_WORDS = frozenset("and a an point over by of".split())  # 5 and a half, 5 point five, 5 over two

UNIT_LETTERS = frozenset("mglLshda")  # any other letter is a variable
GLUED_UNITS = frozenset("g l L mm cm km mg kg ml mL ft in lb lbs oz hr hrs min sec day mph kph am pm".split())
LATIN = re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏ]+")  # Greek letters are variables; for other scripts no number words are listed
CHINESE = re.compile(r"[\u3400-\u9fff]+")

PUNCTUATION = frozenset(".,;:!?()[]{}'\"“”‘’…`_#")  # every other symbol is an operation
BEFORE_NUMBER = frozenset(".,;:?!'\"“‘")
IN_NAME = frozenset(".:'()")
IN_CALCULATION = frozenset(r"+ - * / × ÷ · ^ ^2 ^3 ! ( ) [ ] { } \times \cdot \div \sqrt".split())


class FinalAnswer(NamedTuple):
    """The final answer of a solution, and the form in which it is stated."""

    text: str
    form: Literal["boxed", "marked", "number"]


class Token(NamedTuple):
    """A name, number, word or symbol; `word` is the text of a word in lower case, `spaced` if white space precedes it."""

    kind: str
    text: str
    word: str
    spaced: bool


def find_answer(solution: str) -> FinalAnswer | None:
    """The contents of the last closed, non-empty `\\boxed{…}`, else what follows the last `####`, else the last number.

    None if there is none of these, or if the last number cannot be parsed: an earlier number would not be the answer.

    Example: `find_answer("so it is #### 7")` is `FinalAnswer("7", "marked")`.
    """
    for start, end in sorted(_boxes(solution), reverse=True):
        if _plain(solution[start:end]):
            return FinalAnswer(solution[start:end].strip(), "boxed")
    if marks := re.findall(r"####\s*(\S[^\n]*)", solution):
        return FinalAnswer(marks[-1].strip(), "marked")
    for line in reversed(solution.replace("\\boxed", " ").splitlines()):
        number = _last_number(line)
        if number is not None:
            return FinalAnswer(number, "number") if parse_number(number) is not None else None
    return None


def reference_answer(solution: str) -> str | None:
    """The answer that a data set's solution states in a box or behind `####`; None if it only ends in a number.

    Example: `reference_answer("1+1 = 2\\n#### 2")` is `"2"`.
    """
    found = find_answer(solution)
    return found.text if found and found.form != "number" else None


def same_answer(found: str | None, expected: str | None) -> bool:
    """Whether two answers are the same number, or, where neither is a number, the same text.

    Example: `same_answer("1/2", "0.5")` is True.
    """
    if found is None or expected is None:
        return False
    numbers = parse_number(found), parse_number(expected)
    if numbers == (None, None):
        return _plain(found).casefold() == _plain(expected).casefold() != ""
    return numbers[0] == numbers[1]


def majority(answers: Sequence[str | None]) -> int:
    """The index of the answer that equals the most others, the first one in a tie; None, no answer, gets no votes.

    Example: `majority(["5", "7", "7.0"])` is 1.
    """
    votes = [sum(same_answer(answer, other) for other in answers) for answer in answers]
    return votes.index(max(votes))


def parse_number(text: str) -> Fraction | None:
    """The one number in an answer, whatever currency, unit, grouping or LaTeX stands around it; None if it is not one.

    `$1,234.50` is 2469/2, `18\\text{ eggs}` is 18, `\\frac{1}{2}` and `1/2` are 1/2, `2 million` is 2,000,000.
    `3 + 4 = 7` is 7; `5x`, `10^3`, `5²`, `5\\pi`, `5!`, `2x = 10`, `1,23`, `3 or 4` and `5 and a half` give None.
    """
    text = _plain(text)
    if len(text) > LONGEST:
        return None
    *steps, last = (side.strip() for side in text.split("="))
    last = re.sub(r"^(?:\(([^(){}\[\],]*)\)|\{([^(){}\[\],]*)\})$", r"\1\2", last).strip()  # (1,2) may be a point
    return _quantity(_tokens(re.sub("^- ", "-", last))) if all(_is_step(_tokens(step)) for step in steps) else None


def _quantity(tokens: list[Token]) -> Fraction | None:
    """The value of tokens that are words, a number, its scale and its unit, in this order; None for anything else."""
    start = next((at for at, token in enumerate(tokens) if token.kind == "number"), len(tokens))
    value, behind = _value(tokens[start:])
    if value is None or not _leads_to(tokens[:start], tokens[start]):
        return None
    while behind and (scale := SCALES.get(behind[0].word.removesuffix("s"))):
        value *= scale
        behind = behind[1:]
    if _is_changed(tokens[:start], behind) or not _is_unit([tokens[-len(behind) - 1], *behind]):
        return None
    return value


def _value(tokens: list[Token]) -> tuple[Fraction | None, list[Token]]:
    """The number that the tokens begin with, perhaps mixed or a fraction, and the tokens behind it."""
    match [token.text if token.text == "/" else token.kind for token in tokens[:4]]:
        case ["number", "number", "/", "number"]:
            whole, part = _decimal(tokens[0]), _value(tokens[1:])[0]
            if whole is None or part is None or whole.denominator > 1 or not 0 <= part < 1:
                return None, []
            return whole + (-part if tokens[0].text.startswith("-") else part), tokens[4:]
        case ["number", "/", "number", *_]:
            top, bottom = _decimal(tokens[0]), _decimal(tokens[2])
            return top / bottom if top is not None and bottom else None, tokens[3:]
        case ["number", *_]:
            return _decimal(tokens[0]), tokens[1:]
    return None, []


def _decimal(number: Token) -> Fraction | None:
    return Fraction(number.text.replace(",", "")) if DECIMAL.fullmatch(number.text) else None


def _leads_to(words: list[Token], number: Token) -> bool:
    """Whether these words only introduce the number; the last one must not be a variable, because `x 5` is a product."""
    if not all(token.word or token.text in BEFORE_NUMBER for token in words):
        return False
    return not words or (not _is_variable(words[-1]) and (number.spaced or words[-1].text in ":'\"“‘"))


def _is_variable(token: Token) -> bool:
    """Whether the token is a letter other than the words "a" and "I", or a name like x7."""
    return (len(token.word) == 1 and token.text not in "aAI") or (token.kind == "name" and token.text[0].isalpha())


def _changes(word: str) -> bool:
    """Whether this word changes the value of a number beside it."""
    return word in OPERATION_WORDS or word.removesuffix("s") in NUMBER_WORDS or "illion" in word


def _is_changed(before: list[Token], behind: list[Token]) -> bool:
    """Whether one of the words around a number changes its value."""
    words = [*(token.word for token in before if token.word), "#", *(token.word for token in behind if token.word), ""]
    return any(
        (word in PART_WORDS and after == "of")
        or (_changes(word) and not (word == "times" and after in ("", "a", "an", "as")))  # 3 times a day
        for word, after in pairwise(words)
    )


def _is_unit(tokens: list[Token]) -> bool:
    """Whether only units and other words follow the first token, which is a number or its scale."""
    glued = True  # nothing separates the token from the number: letters may be variables
    for before, token in pairwise(tokens):
        glued = glued and not token.spaced and not before.word
        if token.word:
            fits = _is_unit_word(token.text, glued) and not (before.text == "/" and token.spaced)
        elif before.text in ("a", "/"):
            return False  # no word follows
        elif token.text in ("/", "^2", "^3"):
            fits = not token.spaced and (before.word != "" or (glued and token.text == "/"))
        else:
            fits = token.text in ("!,;.?" if before.word else ",;.?")
        if not fits:
            return False
    return tokens[-1].text not in ("a", "/")


def _is_unit_word(word: str, glued: bool) -> bool:
    """Whether a word behind a number, or glued to it as in 5cm, is a word and not a product of variables."""
    if LATIN.fullmatch(word):
        return len(word) >= (4 if glued else 2) or word in (GLUED_UNITS if glued else UNIT_LETTERS)
    return CHINESE.fullmatch(word) is not None


def _is_step(tokens: list[Token]) -> bool:
    """Whether a side before an equals sign is a name or a calculation; with unknowns in it, it would be an equation."""
    start = max((at + 1 for at, token in enumerate(tokens) if token.word or token.text == ":"), default=0)
    words, calculation = tokens[:start], tokens[start:]
    if _is_changed(words, []):
        return False
    if all(token.word or token.text in IN_NAME for token in tokens):
        return True
    if not calculation or not all(token.kind == "number" or token.text in IN_CALCULATION for token in calculation):
        return False
    if words and words[-1].text != ":" and calculation[0].kind != "number":
        return False  # something - 3
    return _leads_to(words, calculation[0]) and calculation[-1].text not in (*"+-*/×÷·^([{", "\\times", "\\cdot")


def _last_number(line: str) -> str | None:
    """The expression around the last number of a line; empty if it may be negative or not, None if there is no number."""
    line = re.sub(r" — (?=[^\W\d])", "; ", line)  # a dash before a word is no minus
    tokens = _tokens(re.sub(r"^[-*+•] ", "", _plain(line)))  # nor is a list's bullet
    start = next((at for at in reversed(range(len(tokens))) if tokens[at].kind == "number"), None)
    if start is None:
        return None
    end = start + 1
    while start > 0 and _is_joined(tokens[start - 1], tokens[start]):
        start -= 1
    while end < len(tokens) and _is_joined(tokens[end - 1], tokens[end]):
        end += 1
    while tokens[end - 1].word in JOINING_WORDS and tokens[end - 1].spaced:  # they joined nothing
        end -= 1
    text = "".join(" " * token.spaced + token.text for token in tokens[start:end])
    text = text.lstrip(" ([{*_`'\"“‘").rstrip(" )]}*_`'\"”’.,;:!?-")
    return "" if text.startswith("- ") else text  # a dash, or a minus


def _is_joined(left: Token, right: Token) -> bool:
    """Whether two neighbours in running text belong to one expression."""
    if "=" in (left.text, right.text):
        return False
    if not right.spaced or _is_operation(left) or _is_operation(right):
        return True
    if "symbol" in (left.kind, right.kind):
        return False
    if right.word in JOINING_WORDS or left.word == "of" or _changes(right.word) or right.word in PART_WORDS:
        return True
    if right.kind == "number" and (left.kind == "number" or _changes(left.word)):
        return True
    return _is_variable(left) or _is_variable(right)


def _is_operation(token: Token) -> bool:
    """Whether the token is a symbol other than punctuation; a colon behind a space counts, because it is a ratio."""
    return token.kind == "symbol" and (token.text not in PUNCTUATION or (token.text == ":" and token.spaced))


def _boxes(solution: str) -> list[tuple[int, int]]:
    """Where the contents of each closed `\\boxed{…}` start and end."""
    opened: list[re.Match] = []
    boxes = []
    for brace in re.finditer(r"(?P<box>\\boxed\s*)?\{|\}", solution):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and (start := opened.pop())["box"]:
            boxes.append((start.end(), brace.start()))
    return boxes


def _tokens(text: str) -> list[Token]:
    """The names, numbers, words and symbols of plain text."""
    text = re.sub(r"(?<=[a-z])[²³]", lambda power: f"^{unicodedata.normalize('NFKC', power[0])}", text)
    text = re.sub(r"\^\{([23])\}", r"^\1", text)
    text = re.sub(r"(?<=[0-9])-(?=[A-Za-z]{2})", " ", text)  # 5-pound
    # A numeral that is no plain digit, like ½, ² or 万, is a symbol.
    text = "".join(one if one.isascii() or unicodedata.numeric(one, None) is None else "^" for one in text)
    return [
        Token(one.lastgroup, one[0], (one["word"] or "").casefold(), text[max(one.start() - 1, 0)].isspace())
        for one in TOKEN.finditer(text)
    ]


def _plain(text: str) -> str:
    """The text without LaTeX commands, currency and percent signs, degrees and needless white space; fractions as 1/2."""
    text = "".join("-" if unicodedata.category(one) == "Pd" or one == "−" else one for one in " ".join(text.split()))
    text = re.sub(r"<<[^<>]*>>|\\!", "", text.replace("{,}", ","))  # GSM8K's calculator notes, negative space
    text = re.sub(r"([!<>])=", r"\1≠", text)  # these are no equals signs
    text = re.sub(r"!(?=\$|\\[)\]])", "^!", text)  # at the end of a formula it is a factorial, not an exclamation
    text = re.sub(r"(?<![\w)}])\*\*|\*\*(?![\w({\\-])", "", text)
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}", r" \1", text)
    text = re.sub(r"(?<=\d)\s*(?=\\[dt]?frac)", " ", text)
    text = re.sub(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))", r"\1\2/\3\4 ", text)
    text = re.sub(r"(?:\^\s*\{?\s*\\circ\s*\}?|°)(?:\s*[CF]\b)?", " ", text)
    text = re.sub(r"\\[,;: ]|~|\\(?:left|right)(?![a-zA-Z])|\\[()\[\]]", " ", text)
    text = re.sub(r"(?<=[\d.,])(?:\\?[%$€£])+(?=[.,]?\d)", " ", text)  # 5$6 is not 56
    text = " ".join(re.sub(r"\\?[%$€£]", "", text).split())
    return re.sub(r"= ?- ", "= -", text).removesuffix(".")
