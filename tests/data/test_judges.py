"""The two judges of answers, each asked alone and both together, over pairs whose truth is known.

GSM8K_FILE=test.jsonl python -m pytest tests/data/test_judges.py -rP

counts over all references of GSM8K, in place of the forty numbers here.
"""

import collections
import os
from collections.abc import Iterable

import math_verify

from tests.support.answers import Pair, dressed, formulas
from trm_jax.data import load_rows, reference_answer, same_answer
from trm_jax.data.plain_numbers import parse_number

FORTY = [str(number) for number in (*range(26), 48, 72, 96, 125, 366, 694, 1000, 2125, 70000)]
FORTY += ["1,234", "57,500", "0.5", "2.25", "-3"]


def references() -> list[str]:
    file = os.environ.get("GSM8K_FILE")
    return [reference_answer(row["answer"]) for row in load_rows(file, "test")] if file else FORTY


def by_plain_numbers(pair: Pair) -> bool | None:
    """None if it cannot read both."""
    numbers = parse_number(pair.found), parse_number(pair.expected)
    return None if None in numbers else numbers[0] == numbers[1]


def by_math_verify(pair: Pair) -> bool:
    expected, found = (
        math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (pair.expected, pair.found)
    )
    return math_verify.verify(expected, found, timeout_seconds=None)


def count(pairs: Iterable[Pair]) -> collections.Counter:
    """How often the judges disagree, and how each of them and both together err; prints some of the pairs."""
    counts, shown = collections.Counter(), collections.Counter()
    for pair in pairs:
        numbers, mathematics, both = (
            by_plain_numbers(pair),
            by_math_verify(pair),
            same_answer(pair.found, pair.expected),
        )
        kinds = {
            "pairs": True,
            "judges disagree": numbers is not None and numbers != mathematics,
            "plain numbers: not read": numbers is None,
            "plain numbers: wrong one passes": bool(numbers) and not pair.same,
            "plain numbers: right one lost": numbers is False and pair.same,
            "math-verify: wrong one passes": mathematics and not pair.same,
            "math-verify: right one lost": not mathematics and pair.same,
            "both: wrong one passes": both and not pair.same,
            "both: right one lost": not both and pair.same,
        }
        for kind in [kind for kind, holds in kinds.items() if holds]:
            counts[kind] += 1
            shown[kind, pair.same] += 1
            if kind != "pairs" and shown[kind, pair.same] <= 5:
                print(f"{kind}: {pair}")
    print(*(f"{number:8,}  {kind}" for kind, number in counts.items()), sep="\n")
    return counts


def test_numbers_in_their_dress():
    counts = count(pair for reference in references() for pair in dressed(reference))
    assert counts["pairs"] >= 1000
    assert counts["both: wrong one passes"] == counts["both: right one lost"] == 0
    assert counts["math-verify: wrong one passes"] > 0  # so it must not be asked alone


def test_formulas():
    counts = count(formulas())
    assert counts["pairs"] >= 500
    assert counts["both: wrong one passes"] == counts["both: right one lost"] == 0
    assert counts["plain numbers: not read"] > 400  # so they need the other judge
