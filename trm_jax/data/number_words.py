"""Words beside a number: those that are numbers themselves, and those that make another number, or none, of it."""

import re
from itertools import pairwise

WORD = r"[^\W\d_]+(?:['’][^\W\d_]+)*"
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
# Words that change the value of the number beside them: other numbers, fractions, operations, bounds and denials.
NUMBER_WORDS = frozenset(
    "lakh crore mil mille millón millones mln mn bn tn mio mrd milliard milliarden myriad"
    " half halve third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
    " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth hundredth thousandth".split()
).union(SCALES, SMALL, TENS)
OPERATION_WORDS = frozenset(
    "plus minus negative times divided multiplied twice double triple squared cubed factorial root sqrt mod modulo log ln"
    " sin cos tan pi below opposite negation inverse reciprocal thrice doubled halved tripled multiple binary"
    " choose hex octal hexadecimal".split()
)
DENIALS = frozenset("than or not never except none neither nor cannot impossible false wrong incorrect untrue".split())
# Bounds and scales that count only directly beside the number: the price before tax may be 5.
BOUNDS = frozenset("above over under beneath beyond within near down up but excluding without".split())
DAYS = (
    "january february march april may june july august september october november december"
    " jan feb mar apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday"
).split()
DIRECTLY_BEFORE = BOUNDS.union(
    DAYS,
    "exceeds greater subtract exp arcsin arccos arctan sec csc cot sinh cosh tanh lg gcd lcm"
    " no non least most nearly almost between besides unlike past after before until less fewer".split(),
    ["up to"],
)
DIRECTLY_BEHIND = BOUNDS.union(DAYS, "and gross score grand mega giga tera too".split(), ["at least", "at most"])
PART_WORDS = frozenset("quarter quarters square cube pair pairs".split())  # only before "of": 5 quarters may be coins
JOINING_WORDS = frozenset("and a an point over by of".split())  # 5 and a half, 5 point five, 5 over two


def _spelled_number() -> re.Pattern:
    unit, small, tens = ("|".join(words) for words in (SMALL[1:10], SMALL, TENS))
    below_100 = rf"(?:(?:{tens})(?:[- ](?:{unit}))?|(?:{small}))"
    below_1000 = rf"(?:(?:{unit}) hundred(?:(?: and)? {below_100})?|{below_100})"
    return re.compile(rf"{below_1000}(?:,? (?:thousand|million)(?:,? {below_1000})?)?(?![\w-])", re.IGNORECASE)


SPELLED = _spelled_number()


def in_digits(text: str) -> str:
    """The text with its first number in words, such as twenty-five, written in digits."""
    return SPELLED.sub(lambda spelled: str(_value_of_words(spelled[0])), text, count=1)


def _value_of_words(spelled: str) -> int:
    """The value of words like twelve thousand five hundred and six."""
    value = part = 0
    for word in words_of(spelled):
        if word == "hundred":
            part *= 100
        elif word in SCALES:
            value, part = value + part * SCALES[word], 0
        elif word != "and":
            part += SMALL.index(word) if word in SMALL else 10 * (TENS.index(word) + 2)
    return value + part


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without LaTeX's commands."""
    return [word.casefold() for word in re.findall(rf"(?<!\\){WORD}", text)]


def changes(word: str) -> bool:
    """Whether this word changes the value of a number beside it."""
    if not NUMBER_WORDS.isdisjoint((word, word.removesuffix("s"))) or "illion" in word:
        return True
    return word in OPERATION_WORDS or word in DENIALS or word.replace("’", "'").endswith("n't")


def is_changed(words: list[str]) -> bool:
    """Whether one of the words around a number, which stands as #, changes its value."""
    return any(
        (word in PART_WORDS and after == "of")
        or (changes(word) and not (word == "times" and after in ("", "a", "an", "as")))  # 3 times a day
        for word, after in pairwise([*words, ""])
    )


def is_touched(before: list[str], behind: list[str]) -> bool:
    """Whether the words directly beside a number bound or scale it."""
    if DIRECTLY_BEFORE & {*before[-1:], " ".join(before[-2:])}:
        return True
    return bool(DIRECTLY_BEHIND & {*behind[:1], " ".join(behind[:2])})
