"""Problems whose answers take depth, made from a seed, with a difficulty k: that many steps, of which none is written.

`permutations`: k permutations of five things, and where one of them ends. `arrows`: a random map, and where k arrows
lead from three places. `sudoku`: a 4 x 4 Sudoku whose first cell takes k rounds of deduction.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from trm_jax.errors import UserError
from trm_jax.files import write_whole

THINGS = 5  # that are permuted
PLACES = 9  # of a map
STARTS = 3  # whose ends are asked for
SIDE, BOX, CELLS = 4, 2, 16  # of a Sudoku
CLUES = 4, 7  # of a Sudoku: the fewest and the most
HELD_OUT = 8  # one of so many contents is for the test
TRIES = 20_000  # draws in a row without a new question, after which there is taken to be none

Cells = tuple[int, ...]  # of a Sudoku, row by row; 0 is blank


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem, and the part of it that decides whether it is for training or for the test."""

    question: str
    answer: str  # digits
    content: str

    @property
    def is_held_out(self) -> bool:
        """Whether it is for the test: by a hash of its content, so that no seed can bring one content into both."""
        return int(hashlib.sha256(self.content.encode()).hexdigest(), 16) % HELD_OUT == 0


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of problem, and the difficulties that it is trained and tested on where nobody names others."""

    make: Callable[[random.Random, int], Problem | None]  # None where a draw came to nothing
    train: Sequence[int]
    test: Sequence[int]
    hardest: int


def permutations(rng: random.Random, k: int) -> Problem:
    """Where thing number t ends: each permutation lists the new places of the things at the places 1 to 5.

    The content is the k permutations, whatever the thing.
    """
    tables = [rng.sample(range(1, THINGS + 1), THINGS) for _ in range(k)]
    place = thing = rng.randint(1, THINGS)
    for table in tables:
        place = table[place - 1]
    content = ".".join("".join(map(str, table)) for table in tables)
    return Problem(f"{thing}:{content}", str(place), content)


def arrows(rng: random.Random, k: int) -> Problem:
    """Where k arrows lead from each of three places; the map names each place with the one that its arrow points to.

    The map is one path through all places in random order, whose end points back to any place, and the three have k places
    behind them on it: maps drawn blindly have short cycles, which answer many questions of large k. The content is the map.
    """
    path = rng.sample(range(1, PLACES + 1), PLACES)
    target = dict(itertools.pairwise(path)) | {path[-1]: rng.choice(path)}
    pairs = [f"{place}{target[place]}" for place in rng.sample(path, PLACES)]
    starts = rng.sample(range(PLACES - k), STARTS)
    names, answer = ("".join(str(path[start + steps]) for start in starts) for steps in (0, k))
    return Problem(f"{','.join(pairs)};{'>' * k}{names}", answer, ",".join(sorted(pairs)))


def sudoku(rng: random.Random, k: int) -> Problem | None:
    """The solution, row by row, of a Sudoku that can be solved by filling, round for round, all cells with one candidate.

    The first cell is filled in round k. The content is the solution, whatever the clues.
    """
    solution = rng.choice(GRIDS)
    shown = set(rng.sample(range(CELLS), rng.randint(*CLUES)))
    clues = tuple(value if cell in shown else 0 for cell, value in enumerate(solution))
    rounds = rounds_to_fill(clues)
    deep = [cell for cell, number in enumerate(rounds or ()) if number == k]
    if not deep:
        return None
    order = _moved_to_front(rng.choice(deep))
    clues, solution = (tuple(cells[cell] for cell in order) for cells in (clues, solution))
    answer = "".join(map(str, solution))
    return Problem("/".join(_lines(clues)).replace("0", "."), answer, answer)


def rounds_to_fill(clues: Cells) -> list[int] | None:
    """The round in which each cell of a Sudoku is filled, 0 for a clue, or None if a round fills none.

    A round fills all blanks with one candidate: whose row, column and box hold the other three values.
    """
    cells, rounds = list(clues), [0] * CELLS
    for number in itertools.count(1):
        if 0 not in cells:
            return rounds
        candidates = {
            cell: set(range(1, SIDE + 1)) - {cells[other] for other in PEERS[cell]}
            for cell, value in enumerate(cells)
            if value == 0
        }
        found = {cell: min(values) for cell, values in candidates.items() if len(values) == 1}
        if not found:
            return None
        for cell, value in found.items():
            cells[cell], rounds[cell] = value, number


def _peers(cell: int) -> list[int]:
    """The other cells in the row, the column and the box of a cell."""
    row, column = divmod(cell, SIDE)
    box = row // BOX, column // BOX
    places = [(other, *divmod(other, SIDE)) for other in range(CELLS) if other != cell]
    return [other for other, r, c in places if r == row or c == column or (r // BOX, c // BOX) == box]


def _grids(filled: Cells = ()) -> Iterator[Cells]:
    """All solutions that begin with these cells."""
    if len(filled) == CELLS:
        yield filled
        return
    taken = {filled[other] for other in PEERS[len(filled)] if other < len(filled)}
    for value in range(1, SIDE + 1):
        if value not in taken:
            yield from _grids((*filled, value))


def _moved_to_front(cell: int) -> list[int]:
    """An order of the cells that begins with this one and leaves a Sudoku a Sudoku: rows and columns trade places."""
    row, column = divmod(cell, SIDE)
    # To flip a bit of all row numbers swaps the two bands, or the rows of each band; so for columns.
    return [(r ^ row) * SIDE + (c ^ column) for r in range(SIDE) for c in range(SIDE)]


def _lines(cells: Cells) -> list[str]:
    return ["".join(map(str, cells[start : start + SIDE])) for start in range(0, CELLS, SIDE)]


PEERS = [_peers(cell) for cell in range(CELLS)]
GRIDS = list(_grids())
TASKS: Mapping[str, Task] = {
    "permutations": Task(permutations, train=range(1, 5), test=range(2, 9), hardest=64),
    "arrows": Task(arrows, train=range(1, 4), test=range(1, 7), hardest=PLACES - STARTS),
    "sudoku": Task(sudoku, train=range(1, 4), test=range(1, 6), hardest=6),
}


def task_rows(task: str, split: str, k: int, seed: int) -> Iterator[dict[str, str | int]]:
    """An endless stream of rows of difficulty k with `question`, `answer` and `k`; in `test` no question comes twice.

    Whatever the seeds, no content of `train` (see `permutations`, `arrows`, `sudoku`) is in `test`. Raises UserError where
    there are no more test questions.

    Example: `next(task_rows("arrows", "train", k=3, seed=0))["question"]`.
    """
    rng, seen, tries = random.Random(f"{seed} {split} {k}"), set(), 0
    while tries < TRIES:
        tries += 1
        problem = TASKS[task].make(rng, k)
        if problem is None or problem.is_held_out != (split == "test") or problem.question in seen:
            continue
        if split == "test":
            seen.add(problem.question)
        tries = 0
        yield {"question": problem.question, "answer": f"#### {problem.answer}", "k": k}
    raise UserError(f"{task}: no more than {len(seen)} test questions of difficulty {k}")


def write_task(
    task: str,
    folder: pathlib.Path,
    train: int,
    test: int,
    train_k: Sequence[int] = (),
    test_k: Sequence[int] = (),
    seed: int = 0,
) -> str:
    """Writes `train.jsonl` and `test.jsonl`, the difficulties by turns, and returns a line about each.

    Args:
        train: rows of the training set.
        test: questions of each difficulty in the test.
        train_k, test_k: the difficulties; the task's own if none are given.

    Raises UserError for a difficulty that the task does not have or that is named twice, or too many test questions.

    Example: `write_task("arrows", pathlib.Path("runs/tasks/arrows"), train=20_000, test=200)`.
    """
    kind = TASKS[task]
    splits = {"train": train_k or kind.train, "test": test_k or kind.test}
    for split, ks in splits.items():
        if wrong := [k for k in ks if not 1 <= k <= kind.hardest]:
            raise UserError(f"--{split}-k {wrong[0]}: {task} has the difficulties 1 to {kind.hardest}")
        if len(set(ks)) < len(ks):
            raise UserError(f"--{split}-k {' '.join(map(str, ks))}: name each difficulty once")
    found = {}
    for split, ks in splits.items():
        streams = itertools.cycle([task_rows(task, split, k, seed) for k in ks])
        found[split] = [next(next(streams)) for _ in range(train if split == "train" else test * len(ks))]
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in found.items():  # once both are made: they belong together
        write_whole(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return "\n".join(
        f"{folder / split}.jsonl: {len(found[split])} rows of k = {', '.join(map(str, ks))}"
        for split, ks in splits.items()
    )
