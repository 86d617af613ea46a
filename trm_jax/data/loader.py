"""Padded batches of few shapes, in an order that depends on nothing but the seed and the batch's number."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trm_jax.data.examples import Example

NO_LABEL = -1  # the loss skips these slots
LENGTH_STEP = 16  # bucket lengths are multiples of this many tokens
MAX_BUCKETS = 8
WINDOW = 8192  # examples of a stream that are shuffled together


@dataclasses.dataclass(frozen=True)
class Batch:
    """A micro-batches of B rows each, whose gradients are accumulated; rows are padded on the right. Arrays are int32."""

    tokens: np.ndarray  # [A, B, S]
    positions: np.ndarray  # [A, B, R]: slots whose next token is a label
    labels: np.ndarray  # [A, B, R]: that token, or NO_LABEL where a row has fewer than R

    @property
    def filled(self) -> int:
        """Tokens that are not padding."""
        answers = np.sum(self.labels != NO_LABEL, axis=-1)
        return int(np.sum((answers > 0) * (self.positions[..., 0] + 1 + answers)))


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A shape that rows are padded to."""

    length: int  # S, tokens
    solution_length: int  # R, label slots

    def holds(self, example: Example) -> bool:
        return len(example.tokens) <= self.length and example.solution_length <= self.solution_length


def make_buckets(examples: Sequence[Example], max_buckets: int = MAX_BUCKETS) -> list[Bucket]:
    """The shapes, at most `max_buckets` and shortest first, with which the examples need the least padding."""
    rounded = np.array([math.ceil(len(example.tokens) / LENGTH_STEP) for example in examples])
    lengths, counts = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # best[j]: the least padded total of the j shortest lengths, with one more bucket each round; `cuts`: how to reach it.
    best, cuts = np.where(np.arange(len(lengths) + 1) == 0, 0, np.inf), []
    for _ in range(min(max_buckets, len(lengths))):
        cost = best[None, :-1] + (below[1:, None] - below[None, :-1]) * lengths[:, None]
        cost = np.where(np.tri(len(lengths), dtype=bool), cost, np.inf)
        cuts.append(np.argmin(cost, axis=1))
        best = np.concatenate([[0], np.min(cost, axis=1)])
    edges, end = [], len(lengths)
    for cut in reversed(cuts):
        if end:
            edges.append(int(lengths[end - 1]))
            end = int(cut[end - 1])
    buckets, answers = [], 0
    for edge in reversed(edges):
        inside = [example for example, length in zip(examples, rounded, strict=True) if length <= edge]
        answers = max(math.ceil(example.solution_length / LENGTH_STEP) for example in inside)
        buckets.append(Bucket(edge * LENGTH_STEP, answers * LENGTH_STEP))
    return buckets


class Loader:
    """Batches in an order that is a function of the seed and the batch's number alone.

    Every epoch shuffles the rows of each bucket and the order of the batches. Rows that do not fill a bucket's last batch
    move up into the next longer bucket; the very last batch is filled up with empty rows, so every row is seen once.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        accumulation: int = 1,
        seed: int | tuple[int, ...] = 0,
        buckets: Sequence[Bucket] | None = None,
    ):
        """`buckets`: shapes to pad to, shortest first, each large enough for all that fits the one before."""
        self.shape = (accumulation, batch_size)
        self.buckets = make_buckets(examples) if buckets is None else list(buckets)
        self.batches_per_epoch = math.ceil(len(examples) / (accumulation * batch_size))
        self.examples, self._seed = examples, np.atleast_1d(seed).tolist()
        fits = [next(i for i, bucket in enumerate(self.buckets) if bucket.holds(example)) for example in examples]
        self._members = [np.flatnonzero(np.array(fits) == i) for i in range(len(self.buckets))]
        self._planned, self._planned_epoch = [], None

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, counted from the start of training over all epochs."""
        rows, bucket = self.rows(number)
        return pad_batch(rows, bucket, self.shape)

    def rows(self, number: int) -> tuple[list[Example], Bucket]:
        """The rows of batch `number`, and the shape that they are padded to."""
        epoch, index = divmod(number, self.batches_per_epoch)
        bucket, rows = self._plan(epoch)[index]
        return [self.examples[row] for row in rows], bucket

    def of_each_shape(self, start: int, end: int) -> list[int]:
        """Of these numbers of batches, those of the first batch of each shape."""
        first: dict[Bucket, int] = {}
        for number in range(start, end):
            epoch, position = divmod(number, self.batches_per_epoch)
            first.setdefault(self._plan(epoch)[position][0], number)
            if len(first) == len(self.buckets):
                break
        return list(first.values())

    def _plan(self, epoch: int) -> list[tuple[Bucket, list[int]]]:
        if epoch != self._planned_epoch:
            self._planned, self._planned_epoch = self._make_plan(epoch), epoch
        return self._planned

    def _make_plan(self, epoch: int) -> list[tuple[Bucket, list[int]]]:
        rng = np.random.default_rng((*self._seed, epoch))
        size = math.prod(self.shape)
        batches, left = [], []
        for bucket, members in zip(self.buckets, self._members, strict=True):
            rows = left + rng.permutation(members).tolist()
            full = len(rows) // size * size
            batches += [(bucket, rows[start : start + size]) for start in range(0, full, size)]
            left = rows[full:]
        if left:
            batches.append((self.buckets[-1], left))
        return [batches[i] for i in rng.permutation(len(batches))]

    def waste(self) -> float:
        """The share of padding in the tokens of an epoch."""
        padded = sum(math.prod(self.shape) * bucket.length for bucket, _ in self._plan(0))
        return 1 - sum(len(example.tokens) for example in self.examples) / padded


class StreamLoader:
    """Batches of examples that are too many to be held: a window of them at a time is shuffled and bucketed.

    As with `Loader`, batch `number` is a function of seed and number; going back, or a fresh start in the middle, reads the
    stream again from its beginning. The first window decides the buckets, the longest of which holds any example.
    """

    def __init__(
        self,
        stream: Callable[[], Iterator[Example]],
        batch_size: int,
        max_length: int,
        accumulation: int = 1,
        seed: int = 0,
        window: int = WINDOW,
    ):
        """`stream` starts an endless iteration over examples of at most `max_length` tokens."""
        self.shape = (accumulation, batch_size)
        size = accumulation * batch_size
        self._stream, self._seed, self._window = stream, seed, math.ceil(window / size) * size
        self._batches_per_window = self._window // size
        self._restart()
        buckets = make_buckets(self._next_window(), MAX_BUCKETS - 1)
        longest = math.ceil(max_length / LENGTH_STEP) * LENGTH_STEP
        self.buckets = [*(bucket for bucket in buckets if bucket.length < longest), Bucket(longest, longest)]
        self._restart()

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, counted from the start of training."""
        window, index = divmod(number, self._batches_per_window)
        if window != self._windows_read - 1:
            if window < self._windows_read:
                self._restart()
            while self._windows_read <= window:
                examples = self._next_window()
            self._loader = Loader(examples, self.shape[1], self.shape[0], (self._seed, window), self.buckets)
        return self._loader[index]

    def _restart(self) -> None:
        self._examples, self._windows_read = self._stream(), 0

    def _next_window(self) -> list[Example]:
        self._windows_read += 1
        return list(itertools.islice(self._examples, self._window))


def pad_batch(examples: Sequence[Example], bucket: Bucket, shape: tuple[int, int]) -> Batch:
    """Up to A·B examples as one Batch of shape (A, B); rows that are left over are empty.

    Example: `pad_batch(examples, Bucket(64, 32), (1, 8))`.
    """
    size = math.prod(shape)
    tokens = np.zeros((size, bucket.length), np.int32)
    positions = np.zeros((size, bucket.solution_length), np.int32)
    labels = np.full((size, bucket.solution_length), NO_LABEL, np.int32)
    for slot, example in enumerate(examples):
        count, prompt = example.solution_length, example.prompt_length
        tokens[slot, : len(example.tokens)] = example.tokens
        positions[slot, :count] = np.arange(prompt - 1, prompt - 1 + count)
        labels[slot, :count] = example.tokens[prompt:]
    return Batch(*(array.reshape(*shape, -1) for array in (tokens, positions, labels)))
