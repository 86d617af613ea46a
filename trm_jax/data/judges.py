"""Tells whether two answers are the same.

Two judges: `plain_numbers` reads a number in its dress, `mathematics` asks math-verify about formulas. Where both read an
answer, the plain number counts, because it is exact and knows units, percent signs and grouping. math-verify is asked
only if at least one answer is no plain number and both are nothing but mathematics, because it passes over words.
"""

import collections
import re
from collections.abc import Sequence

from trm_jax.data.answers import CHOICE, CHOSEN
from trm_jax.data.mathematics import is_mathematics, same_mathematics
from trm_jax.data.plain_numbers import SYMBOL, parse_quantity, undressed
from trm_jax.data.units import is_unit, may_be_the_same_unit

LONGEST = 2000  # characters of two answers; longer ones are the same only if their texts are
UNIT_BEHIND = re.compile(r"(.*?[^\d\s].*?)\s*\\(?:text|mathrm|textrm|mbox)\s*\{[~\s]*([A-Za-z ]+)\}(\^\{?[23]\}?)?\s*")
NAMED = re.compile(rf"[\s$]*({SYMBOL}|[A-Z]{{2,3}}|[a-z]{{2}}|[a-z]\(\w+\)|\([a-z](?:, ?[a-z])+\))\s*=")
WORD = re.compile(r"\b(?:[A-Za-z][a-z]+|[A-Z]{4,}|YES|NO|[AP]M)\b")  # AB and ab may be two products


def same_answer(found: str | None, expected: str | None) -> bool:
    """Whether two answers are the same number, the same formula, the same choice or the same words.

    Example: `same_answer("1/2", "0.5")` is True.
    """
    if found is None or expected is None:
        return False
    if len(found) + len(expected) > LONGEST:
        return found.strip() == expected.strip() != ""
    choices = [CHOSEN.fullmatch(undressed(text)) for text in (found, expected)]
    if (choices[0] is None) != (choices[1] is None):  # (B) 12 is B
        found, expected = (
            choice[1] if choice else text for choice, text in zip(choices, (found, expected), strict=True)
        )
    (found, one_unit), (expected, other_unit) = map(_formula_and_unit, (found, expected))
    if not may_be_the_same_unit(one_unit, other_unit):
        return False
    names = {re.sub(r"[{}]", "", name[1]) for name in map(NAMED.match, (found, expected)) if name}
    if len(names) > 1:  # x = 5 is not y = 5
        return False
    one, other = parse_quantity(found), parse_quantity(expected)
    if one and other:
        return one.value == other.value and may_be_the_same_unit(one.unit, other.unit)
    if one is other is None and _words_of(found) == _words_of(expected) != "":
        return True
    return same_mathematics(found, expected)


def _formula_and_unit(answer: str) -> tuple[str, str]:
    """A formula without the unit that stands behind it, which is no number's, and the unit."""
    behind = UNIT_BEHIND.fullmatch(answer)
    if not behind or not is_unit(behind[2]) or not is_mathematics(behind[1]):
        return answer, ""
    return behind[1], behind[2] + (behind[3] or "")


def majority(answers: Sequence[str | None]) -> int:
    """The index of the answer that equals the most others, the first one in a tie; None, no answer, gets no votes.

    Example: `majority(["5", "7", "7.0"])` is 1.
    """
    counts = collections.Counter(answers)  # each pair of texts is compared once: a comparison can be slow
    votes = {one: sum(counts[other] for other in counts if same_answer(one, other)) for one in counts}
    return max(range(len(answers)), key=lambda index: votes[answers[index]])


def _words_of(answer: str) -> str:
    """An answer as it is compared with another that is no number: without dress and spaces that do not matter, its words in
    small letters. Single letters keep their case, since N and n are two variables, unless they name a choice."""
    text = re.sub(r"_\{(\w+)\}", r"_\1", undressed(answer))
    text = re.sub(r"(?<=\d) (?=[ap]m\b)", "", WORD.sub(lambda word: word[0].casefold(), text))
    if choice := CHOICE.fullmatch(text):
        return choice[1].casefold()
    return re.sub(r"(?<!\w) | (?!\w)", "", text)
