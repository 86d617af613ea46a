"""Texts laid out for a terminal: wrapped, two side by side, each token's supervision steps below it."""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

GAP = " | "
LEAST_WIDTH = 60  # of a terminal that two columns fit into


class Token(NamedTuple):
    """What a token adds to a text: nothing where it is a part of a character only, or the end."""

    text: str
    steps: int | None = None  # None: not to be shown


class Cell(NamedTuple):
    """A character with whatever combines with it; an empty one stands for a token that shows nothing."""

    text: str
    width: int  # in the terminal's own cells
    steps: int | None = None

    @property
    def is_space(self) -> bool:
        return self.text in (" ", "\n")


def width_of(text: str) -> int:
    """How many of a terminal's cells a text takes: two for a Chinese character, none for a combining accent.

    Example: `width_of("3 个苹果")` is 8.
    """
    return sum(map(_width_of, text))


def wrap(tokens: Sequence[Token], width: int) -> list[list[Cell]]:
    """The cells of the tokens, in lines that are no wider than `width`; all cells are kept, those of spaces too.

    More tokens change the last line alone.

    Example: `wrap([Token("Tom", 2), Token(" has", 1)], 40)`.
    """
    lines: list[list[Cell]] = [[]]
    for cell in itertools.chain.from_iterable(map(_cells, tokens)):
        line = lines[-1]
        if cell.width == 0 and cell.text != "\n" and line:  # it combines with the character before it
            line[-1] = line[-1]._replace(text=line[-1].text + cell.text)
            continue
        line.append(cell)
        # The last cell is for a space, so that none has to begin the next line.
        if _sum(line) > (width if cell.is_space else width - 1):
            at = max(
                (place for place in range(1, len(line)) if _may_break(*line[place - 1 : place + 1])),
                default=len(line) - 1,
            )
            lines[-1:] = [line[:at], line[at:]]
        if cell.text == "\n":
            lines.append([])
    return lines


def rows_of(line: Sequence[Cell]) -> list[str]:
    """A line as the rows that a terminal shows: its text, and below each token its steps, one digit a row.

    Example: `rows_of(wrap([Token("Tom", 12), Token(" has", 2)], 40)[0])` is `["Tom has", "1", "2    2"]`.
    """
    numbers = ["" if cell.steps is None else str(cell.steps) for cell in line]
    height = max(map(len, numbers), default=0)
    rows = ["".join(" " * cell.width if cell.text in ("", "\n") else cell.text for cell in line)]
    for row in range(height):
        digits = [number.rjust(height)[row] for number in numbers]
        rows.append("".join(digit.ljust(cell.width)[: cell.width] for digit, cell in zip(digits, line, strict=True)))
    return [row.rstrip() for row in rows]


def side_by_side(columns: Sequence[Sequence[str]], width: int) -> list[str]:
    """Rows of several columns, each `width` wide, as rows of a terminal.

    Example: `side_by_side([["a"], ["b", "c"]], 2)` is `["a  | b", "   | c"]`.
    """
    return [
        GAP.join(row + " " * (width - width_of(row)) for row in rows).rstrip()
        for rows in itertools.zip_longest(*columns, fillvalue="")
    ]


def _cells(token: Token) -> list[Cell]:
    """The cells of a token; its steps are at its first character that is seen."""
    shown = [_shown(character) for character in token.text]
    cells = [Cell(text, _width_of(text)) for text in shown]
    if token.steps is None:
        return cells
    seen = [place for place, cell in enumerate(cells) if cell.width and not cell.is_space]
    seen += [place for place, cell in enumerate(cells) if cell.is_space]
    if not seen:
        return [*cells, Cell("", 1, token.steps)]
    cell = cells[seen[0]]
    cells[seen[0]] = cell._replace(steps=token.steps, width=max(cell.width, 1))  # a newline gets a cell
    return cells


def _shown(character: str) -> str:
    """What a terminal is given for a character: none may move its cursor."""
    if character == "\n" or character.isprintable() or unicodedata.category(character) == "Cf":
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


def _width_of(character: str) -> int:
    if character == "\n" or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _sum(line: Sequence[Cell]) -> int:
    return sum(cell.width for cell in line)


def _may_break(before: Cell, after: Cell) -> bool:
    """Whether a line may end between two cells: behind a space, and beside a wide character."""
    return not after.is_space and (before.is_space or before.width == 2 or after.width == 2)
