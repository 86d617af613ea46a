"""Final answers found and compared, on forms that graders elsewhere got wrong: none may be lost, no wrong one accepted."""

from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trm_jax.answers import find_answer, majority, parse_number, reference_answer, same_answer


@pytest.mark.parametrize(
    ("text", "answer", "form"),
    [
        ("so \\boxed{72}.", "72", "boxed"),
        ("\\boxed{1} or rather \\boxed{2}", "2", "boxed"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "boxed"),
        ("\\boxed{18\\text{ eggs}}", "18\\text{ eggs}", "boxed"),
        ("\\boxed {7}, which is less than 9. Next question: 10", "7", "boxed"),
        ("#### 5\nso \\boxed{4}", "4", "boxed"),
        ("\\boxed{3} and \\boxed{4", "3", "boxed"),
        ("work\n#### 42", "42", "marked"),
        ("#### 1\n#### 2\nmore: 3", "2", "marked"),
        ("an open \\boxed{4", "4", "number"),
        ("She has 3 apples and 4,000 pears.", "4,000", "number"),
        ("10-5 = 5", "5", "number"),
        ("it is -5.", "-5", "number"),
        ("it costs **$18.50**.", "18.50", "number"),
        ("\\(\\frac{1}{2}\\)", "1/2", "number"),
    ],
)
def test_how_an_answer_is_stated(text, answer, form):
    assert find_answer(text) == (answer, form)


@pytest.mark.parametrize("text", ["", "none at all", "version 1.2.3", "5x", "x7", "\\boxed{", "####"])
def test_no_answer(text):
    assert find_answer(text) is None


def test_a_data_set_must_state_its_answer():
    assert reference_answer("so it is 4\n#### 5") == "5"
    assert reference_answer("so it is 4") is None


NUMBERS = {
    "1,234": 1234,
    "1{,}000": 1000,
    "$29.00": 29,
    "\\$18": 18,
    "-$5": -5,
    "$-5": -5,
    "€7": 7,
    "70,000 dollars": 70000,
    "18\\text{ eggs}": 18,
    "18个": 18,
    "18 \\text{ m}^2": 18,
    "90^\\circ": 90,
    "60 km/h": 60,
    "5 years old": 5,
    "1/2 a cup": Fraction(1, 2),
    "\\frac{1}{2}": Fraction(1, 2),
    "\\dfrac12": Fraction(1, 2),
    "-\\frac{3}{4}": Fraction(-3, 4),
    "1/2": Fraction(1, 2),
    "2\\frac{1}{2}": Fraction(5, 2),
    "2 1/2": Fraction(5, 2),
    "-5": -5,
    "− 5": -5,
    ".5": Fraction(1, 2),
    "12.": 12,
    "29.00": 29,
    "50\\%": 50,
    "**42**": 42,
    "x = 3": 3,
    "x=-3": -3,
    "3 + 4 = 7": 7,
    "The answer is 42.": 42,
    "2 million": 2_000_000,
    "3 dozen eggs": 36,
}
# What reads like a number at first sight.
NO_NUMBERS = (
    "many|3 and 4|3 or 4|12 5|(3,4)|3:30|1-2|1.2.3|1/0|5/|--5|1,23|0,500|1234,567|12,345,67|1e5|10^3|5x|5y|a5|5a|"
    "x - 5|n-5|10-5|2*3|5 + x|2x+1|5\\pi|5\\sqrt{2}|half of 10|twice 5|minus 5|5 plus 3|\\infty|" + "9" * 5000
).split("|")


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers(text):
    assert parse_number(text) == NUMBERS[text]


@pytest.mark.parametrize("text", ["", *NO_NUMBERS])
def test_what_is_no_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("29.00", "29", True),
        ("0.5", "\\frac{1}{2}", True),
        ("2900", "29", False),
        ("50\\%", "0.5", False),
        ("50\\%", "50", True),
        ("-5", "5", False),
        ("5 million", "5", False),
        ("5x", "5", False),
        ("0.333", "1/3", False),
        ("\\text{Monday}", "monday", True),
        ("", "", False),
        (None, "5", False),
        (None, None, False),
    ],
)
def test_comparison(found, expected, same):
    assert same_answer(found, expected) is same


def test_the_majority_is_of_numbers_not_of_spellings():
    assert majority(["7", "12", "$12.00", None]) == 1
    assert majority([None, None, "3"]) == 2
    assert majority([None, None]) == 0


numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(Fraction),
    st.decimals(-(10**6), 10**6, places=2, allow_nan=False).map(Fraction),
)


def dressed(number: Fraction) -> list[str]:
    """Ways in which a solution may write a decimal number."""
    plain = f"{float(number):.2f}" if number.denominator > 1 else str(number.numerator)
    grouped = f"{float(number):,.2f}" if number.denominator > 1 else f"{number.numerator:,}"
    return [
        *(
            plain,
            grouped,
            f"${grouped}",
            f"\\${plain}",
            f"{grouped} apples",
            f"{plain}\\text{{ apples}}",
            f"{plain}\\%",
        ),
        *(grouped.replace(",", "{,}"), plain.replace("-", "−"), f"x = {plain}", f"**{grouped}**", f" {plain} . "),
        f"\\frac{{{number.numerator}}}{{{number.denominator}}}" if number > 0 else plain,
    ]


@given(numbers)
def test_dress_does_not_change_a_number(number):
    for text in dressed(number):
        assert parse_number(text) == number, text
        assert find_answer(f"3 + 4, so \\boxed{{{text}}}, not 5") == (text.strip(), "boxed")


@given(numbers, numbers)
def test_another_number_is_never_the_same(one, other):
    for text in dressed(one):
        assert same_answer(text, str(other)) is (one == other)


@given(numbers)
def test_a_loose_number_is_read_whole(number):
    """A sign or a group of digits left out would be another number."""
    grouped = f"{float(number):,.2f}" if number.denominator > 1 else f"{number.numerator:,}"
    for text in (f"of 3 there are {grouped}.", f"it is **{grouped}** apples", f"= {grouped}\n", f"so $ {grouped}$"):
        assert parse_number(find_answer(text).text) == number, text


@given(st.text(alphabet="0123456789.,-+/ $%\\boxed{}frac#=x\n", max_size=60))
def test_any_text_is_read_to_an_end(text):
    """No error and no hang; and what is found compares equal to itself, unless it is empty."""
    found = find_answer(text)
    assert found is None or same_answer(*[found.text] * 2) or not found.text.strip(" .$%\\,{}~")
