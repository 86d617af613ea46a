"""Tells whether what two answers count may be the same: 5 dollars are not 5 cents, but $5 are 5 dollars, and so may 5 be."""

import re

# How the same measure is written, its name first. Square and cubic ones have a power behind their name.
SPELLINGS = [
    line.split()
    for line in (
        "dollar usd buck $",
        "cent ¢",
        "euro eur €",
        "gbp £",
        "rupee rs inr ₹",
        "percent %",
        "degree deg °",
        "c celsius",
        "f fahrenheit",
        "mm millimeter millimetre",
        "cm centimeter centimetre",
        "m meter metre",
        "km kilometer kilometre",
        "inch in inche",
        "foot feet ft",
        "yard yd",
        "mile mi",
        "mg milligram",
        "g gram",
        "kg kilogram kilo",
        "ounce oz",
        "pound lb",
        "ml milliliter millilitre",
        "l liter litre",
        "second sec s",
        "minute min",
        "hour hr h",
        "day d",
        "person people",
        "man men",
        "woman women",
        "child children",
    )
]
NAMES = {spelling: name for name, *others in SPELLINGS for spelling in others}
RATES = {"mph": "mile per hour", "kmh": "km per hour", "kph": "km per hour"}
POWERS = {"square": "^2", "sq": "^2", "cubic": "^3"}
FILLERS = frozenset("a an the of on to each total per".split())
IDEOGRAMS = r"[\u3400-\u9fff]"
MEASURES = re.compile("(?:平方|立方)?(?:千米|厘米|毫米|分米|米)|千克|毫克|克|吨|毫升|升|小时|分钟|秒|天|元|角|分|度")


def may_be_the_same_unit(one: str, other: str) -> bool:
    """Whether one of two answers counts nothing that the other does not, so that they are the same if their numbers are.

    Units in Chinese are compared only with each other.

    Example: `may_be_the_same_unit("5 dollars", "5 cents")` is False.
    """
    measures = [found[0] for found in map(MEASURES.search, (one, other)) if found]
    if len(set(measures)) > 1:
        return False
    latin, chinese = zip(*map(_units, (one, other)), strict=True)
    return all(a <= b or b <= a for a, b in (latin, chinese))


def is_unit(text: str) -> bool:
    """Whether all words of a text are names of measures, as in `square cm`. Example: `is_unit("cubic inches")` is True."""
    known = {*NAMES, *NAMES.values(), *POWERS, "unit", "radian", "per"}
    return all(
        word in known or word.removesuffix("s") in known or word.removesuffix("es") in known
        for word in text.casefold().split()
    )


def _units(answer: str) -> tuple[set[str], set[str]]:
    """What is counted, by its names: words in Latin letters, and signs of Chinese."""
    text = answer.casefold()
    for word, names in RATES.items():
        text = re.sub(rf"\b{word}\b", names, text)
    text = re.sub(r" ?/ ?", " per ", text)
    text = re.sub(r"\b(square|sq|cubic)\.? ([^\W\d_]+)", lambda found: f"{found[2]}{POWERS[found[1]]}", text)
    units = set()
    for per, word, power in re.findall(rf"(\bper )?((?!{IDEOGRAMS})[^\W\d_]+|[¢$€£₹¥₩₽%°])(\^[23])?", text):
        one = word if len(word) < 3 or word.endswith("ss") else word.removesuffix("s")
        units.add(per + (NAMES.get(word) or NAMES.get(one, one)) + power)
    return units - FILLERS, set(re.findall(IDEOGRAMS, text))
