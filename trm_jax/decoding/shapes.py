"""The few shapes that prompts and caches are padded to: each of them costs the compilation of a program."""

import dataclasses
from collections.abc import Sequence

import numpy as np

SHORTEST = 64  # prompts are padded to at least so many tokens
FIRST_CAPACITY = 128  # tokens that a row has room for at first
CAPACITY_STEP = 16  # a row's room for the longest completion is a multiple of this many tokens
TOGETHER = 8  # prompts that are read together, at most
REFILL_SHARE = 8  # new prompts are read once one row in so many is free


def coarse_capacity(tokens: int) -> int:
    """The capacity of rows that must hold so many tokens: the next of 128, 192, 256, 384, 512, 768, …"""
    power = max(FIRST_CAPACITY, power_of_two(tokens))
    return power * 3 // 4 if power > FIRST_CAPACITY and tokens <= power * 3 // 4 else power


def capacities(most: int) -> list[int]:
    """All capacities that rows of at most `most` tokens can have. Example: `capacities(300)` is `[128, 192, 256, 300]`."""
    found = [min(coarse_capacity(1), most)]
    while found[-1] < most:
        found.append(min(coarse_capacity(found[-1] + 1), most))
    return found


def pad_prompts(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as int32[B,S], padded on the right to the `padded_length` of the longest one, and their lengths int32[B].

    Example: `tokens, lengths = pad_prompts([[1, 2, 3], [4, 5]])`.
    """
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.zeros((len(prompts), padded_length(int(lengths.max()))), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths


def padded_length(length: int) -> int:
    """The next of 64, 128, 192, 256, 384, …: there are two lengths from one power of two to the next.

    Example: `padded_length(100)` is 128.
    """
    return SHORTEST if length <= SHORTEST else coarse_capacity(length)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """How many of something are taken together: each number, with each padded length, costs the compilation of a program."""

    least: int
    most: int

    @property
    def each(self) -> set[int]:
        return {self.least, self.most}

    def padded(self, count: int) -> int:
        """The number that so many, at most `most`, are padded to."""
        return self.least if count <= self.least else self.most

    def parts(self, count: int) -> list[int]:
        """Splits so many into those that are taken together; few of them are padded."""
        whole, left = divmod(count, self.most)
        least = self.most if 2 * left > self.most else self.least
        return [self.most] * whole + [min(least, left - start) for start in range(0, left, least)]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How prompts are read into the rows of a batch."""

    prompts: Numbers  # that are read together
    rows: Numbers  # that take one together

    @classmethod
    def of_batch(cls, rows: int, samples: int = 1, parts: int = 1) -> "Reading":
        """For a batch that is decoded once: as many at a time as come free together, and at its start up to TOGETHER.

        The prompts are multiples of the `parts` that a mesh splits rows into.
        """
        later, first = (min(TOGETHER, max(1, count // samples)) for count in (rows // REFILL_SHARE, rows))
        placed = (min(TOGETHER, count * samples) for count in (later, first))
        return cls(Numbers(round_up(later, parts), round_up(first, parts)), Numbers(*placed))


def round_up(number: int, step: int) -> int:
    """The least multiple of `step` that is not below `number`. Example: `round_up(17, 16)` is 32."""
    return -(-number // step) * step


def power_of_two(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 2 ** (count - 1).bit_length()


# Of a batch that serves for days, every program of which may be compiled at its start: one prompt takes little longer than
# an eighth of eight, because reading is bound by arithmetic.
ONE_BY_ONE = Reading(Numbers(1, 1), Numbers(1, 1))
