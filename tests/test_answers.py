"""Extraction and comparison of final answers, on forms that graders elsewhere got wrong."""

from fractions import Fraction

import pytest

from trm_jax.answers import extract_answer, parse_number, same_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{72}.", "72"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{18\\text{ eggs}}", "18\\text{ eggs}"),
        ("work\n#### 42", "42"),
        ("\\boxed{3} and \\boxed{4", "3"),
        ("no answer, but 12 in it", None),
        ("", None),
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", 1234),
        ("$29.00", 29),
        ("70,000 dollars", 70000),
        ("\\$18", 18),
        ("18\\text{ eggs}", 18),
        ("\\frac{1}{2}", Fraction(1, 2)),
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("1/2", Fraction(1, 2)),
        ("-5", -5),
        (".5", Fraction(1, 2)),
        ("12.", 12),
        ("50\\%", 50),
        ("1{,}000", 1000),
        ("x = 3", 3),
        ("1/0", None),
        ("3 and 4", None),
        ("12 5", None),
        ("many", None),
        ("", None),
    ],
)
def test_numbers(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("29.00", "29", True),
        ("0.5", "\\frac{1}{2}", True),
        ("2900", "29", False),
        ("50\\%", "0.5", False),
        ("-5", "5", False),
        ("Monday", "Monday", True),
        (None, "5", False),
        (None, None, False),
    ],
)
def test_comparison(found, expected, same):
    assert same_answer(found, expected) is same
