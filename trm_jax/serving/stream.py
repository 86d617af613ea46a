"""What an engine tells about a request: the tokens of its samples, piece by piece, or why there are none."""

import queue
from collections.abc import Iterator
from typing import Literal, NamedTuple

from trm_jax.decoding import Request
from trm_jax.errors import UserError


class EngineError(UserError):
    """A request that the engine cannot take, or could not finish."""


class FullError(EngineError):
    """Too many requests are waiting already."""


class EndedError(EngineError):
    """The engine is closed, or has failed."""


class Piece(NamedTuple):
    """What a chunk has added to one sample of a request."""

    sample: int
    tokens: list[int]
    steps: list[int]  # the supervision steps that each token took
    end: Literal["stop", "length"] | None = None  # of the sample: an end token, or the limit


class Stream:
    """The completions of one request, as they come. Iterating waits for the next piece, and ends when all samples have."""

    def __init__(self, request: Request):
        self.request = request
        self.sent = [0] * request.samples  # tokens of each sample, as the engine counts them
        self._pieces: queue.SimpleQueue[Piece | Exception] = queue.SimpleQueue()
        self._given_up: set[int] = set()

    def put(self, piece: Piece | Exception) -> None:
        """Called by the engine's thread with each piece, and with the error that ends the request."""
        self._pieces.put(piece)

    def __iter__(self) -> Iterator[Piece]:
        """Raises EngineError if the engine fails, or is closed, before the request is done."""
        left = self.request.samples
        while left:
            piece = self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            left -= piece.end is not None
            yield piece

    def cancel(self) -> None:
        """Gives the request up: its rows are free after the chunk that is being decoded."""
        self._given_up.update(range(self.request.samples))

    def cancel_sample(self, sample: int) -> None:
        """Gives up one sample, of which no more pieces are wanted; the others go on."""
        self._given_up.add(sample)

    def has_given_up(self, sample: int) -> bool:
        return sample in self._given_up

    @property
    def is_given_up(self) -> bool:
        """Whether no sample is wanted any more."""
        return len(self._given_up) == self.request.samples
