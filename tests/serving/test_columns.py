"""Texts in the columns of a terminal: nothing is lost or wider than its column, and each number is below its token."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trm_jax.serving.columns import Token, rows_of, side_by_side, width_of, wrap

texts = st.text(st.sampled_from("ab 1\n苹果，é\u0301🍎\ufe0f\u200d"), max_size=6)
tokens = st.lists(st.builds(Token, texts, st.none() | st.integers(1, 120)), max_size=30)
widths = st.integers(6, 40)


def text_of(lines) -> str:
    return "".join(cell.text for line in lines for cell in line)


def steps_of(lines) -> list[int]:
    """Read off the rows, as a person does: downwards, from left to right."""
    found = []
    for _, *numbers in map(rows_of, lines):
        for digits in zip(*(row.ljust(80) for row in numbers), strict=True):
            found += [int("".join(digits))] if "".join(digits).strip() else []
    return found


@given(tokens, widths)
def test_nothing_is_lost_and_no_line_is_too_wide(tokens, width):
    lines = wrap(tokens, width)
    assert text_of(lines) == "".join(token.text for token in tokens)
    assert steps_of(lines) == [token.steps for token in tokens if token.steps is not None]
    for line in lines:
        rows = rows_of(line)
        assert max(map(width_of, rows)) <= width
        assert all("\n" not in row and row == row.rstrip() for row in rows)


@given(tokens, widths, st.integers(0, 30))
def test_more_tokens_change_the_last_line_alone(tokens, width, count):
    """So a line can be shown once there is another behind it."""
    before = wrap(tokens[:count], width)
    assert wrap(tokens, width)[: len(before) - 1] == before[:-1]


@given(st.lists(st.text(st.sampled_from("ab"), min_size=1, max_size=5)), widths)
def test_words_that_fit_are_whole(words, width):
    lines = wrap([Token(" ".join(words))], width)
    assert [word for line in lines for word in text_of([line]).split()] == words


def test_steps_are_below_their_tokens():
    """A token that shows nothing has a place of its own: a part of a character, the end; digits go downwards."""
    told = [
        Token("Tom", 2),
        Token(" 有", 12),
        Token("", 3),
        Token("🍎", 4),
        Token(" ", 5),
        Token("3", 16),
        Token("", 2),
    ]
    [line] = wrap(told, 40)
    assert rows_of(line) == ["Tom 有 🍎 3", "    1     1", "2   2 34 562"]


def test_a_newline_has_a_place_for_its_steps():
    lines = wrap([Token("7", 2), Token("\n", 13), Token("8.\n", 4)], 40)
    assert list(map(rows_of, lines)) == [["7", " 1", "23"], ["8.", "4"], [""]]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Tom has three apples", ["Tom has ", "three ", "apples"]),
        ("一二三四五", ["一二三", "四五"]),
        ("a\n\nb", ["a", "", "b"]),
        ("abcdefghijk", ["abcdefg", "hijk"]),
        ("a\tb\rc\x1b[2J", ["a b ", "c\N{REPLACEMENT CHARACTER}[2J"]),
    ],
)
def test_lines_end_where_a_reader_expects(text, rows):
    assert [rows_of(line) for line in wrap([Token(text)], 8)] == [[row.rstrip()] for row in rows]


def test_columns_stand_beside_each_other():
    assert side_by_side([["a", "苹果"], ["b"], ["é", "", "z"]], 5) == [
        "a     | b     | é",
        "苹果  |       |",
        "      |       | z",
    ]
