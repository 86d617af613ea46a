"""An engine that completes requests: one thread makes every call of JAX, and requests come and go between its chunks."""

import collections
import logging
import queue
import threading
from collections.abc import Iterator
from typing import Literal, NamedTuple, Self

from trm_jax.decoding import CAPACITY_STEP, DecodeConfig, Request, Room, Rows, padded_length, require_prompts, round_up
from trm_jax.errors import UserError
from trm_jax.hardware import row_parts, tensor_parts
from trm_jax.model import QwenTRM

_log = logging.getLogger(__name__)

CHUNK = 16  # steps after which requests may join and leave, and are told what they have got


class EngineError(UserError):
    """A request that the engine cannot take, or could not finish."""


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
        self._pieces: queue.SimpleQueue[Piece | Exception] = queue.SimpleQueue()
        self._sent = [0] * request.samples  # tokens of each sample
        self.cancelled = False

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
        self.cancelled = True


class Engine:
    """A batch of rows, and the requests that wait for one.

    A greedy completion is what `generate` makes of the prompt, whoever else is served.

    Example: `with Engine(model, decode_config(model), capacity=512) as engine: ...`.
    """

    def __init__(
        self, model: QwenTRM, config: DecodeConfig, capacity: int, rows: int | None = None, most_waiting: int = 256
    ):
        """`model` is one of `for_decoding`, `config` one whose rows may draw.

        Args:
            capacity: tokens of the longest prompt and its completion together.
            rows: of the batch; None: as many as fit into the memory, at most 64.
            most_waiting: requests that may wait for a row; more are refused.
        """
        self.capacity = round_up(capacity, CAPACITY_STEP)
        room = Room(model, config, self.capacity, padded_length(self.capacity), row_parts(), tensor_parts())
        count = room.choose_rows(rows, most=room.row_parts * 64, samples=1)
        self._backbone_config = model.backbone.config
        self._rows = Rows(model, config, count, self.capacity, longest=self.capacity)
        self._ends = set(config.end_tokens)
        self._waiting: collections.deque[Stream] = collections.deque()
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._closed, self._failure = False, None
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def submit(self, request: Request) -> Stream:
        """Lets a request wait for its rows. Raises GenerationError or EngineError if it cannot be taken."""
        require_prompts([request.prompt], [request.limit], self._backbone_config)
        if len(request.prompt) + request.limit > self.capacity:
            raise EngineError(
                f"a prompt of {len(request.prompt):,} tokens and {request.limit:,} new ones are more than the "
                f"{self.capacity:,} of a row"
            )
        if request.samples > len(self._rows):
            raise EngineError(
                f"{request.samples} completions of a prompt need as many rows; there are {len(self._rows)}"
            )
        stream = Stream(request)
        with self._changed:
            if self._closed or self._failure:
                raise EngineError(str(self._failure or "the engine is closed"))
            if len(self._waiting) >= self._most_waiting:
                raise EngineError(f"{len(self._waiting)} requests are waiting already")
            self._waiting.append(stream)
            self._changed.notify()
        return stream

    def close(self, patience: float | None = None) -> None:
        """Takes no more requests, and returns when those that are taken are done, or after so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(patience)

    def _serve(self) -> None:
        active: set[Stream] = set()
        try:
            while self._admit(active):
                # While requests wait, the next row that ends makes room for one.
                wanted = len(self._rows.free) + 1 if self._waiting else len(self._rows)
                for found in self._rows.advance(wanted, CHUNK):
                    self._deliver(*found)
                active = {stream for stream in active if stream in self._rows.requests}
        except BaseException as error:  # whatever it is, nobody may wait for ever
            with self._changed:
                self._failure = error
                active.update(self._waiting)
                self._waiting.clear()
            for stream in active:
                stream._pieces.put(EngineError(f"the engine has failed: {error}"))
            _log.exception("the engine has failed")

    def _admit(self, active: set[Stream]) -> bool:
        """Reads waiting requests into free rows, and ends those that were given up. False when there is no more to do."""
        self._rows.stop({stream for stream in active if stream.cancelled})
        active.intersection_update(self._rows.requests)
        with self._changed:
            while not (self._waiting or active or self._closed):
                self._changed.wait()
            chosen, free = {}, len(self._rows.free)
            while self._waiting and self._waiting[0].request.samples <= free:
                stream = self._waiting.popleft()
                if not stream.cancelled:
                    chosen[stream] = stream.request
                    free -= stream.request.samples
        active.update(chosen)
        if chosen:
            self._rows.read(chosen)
        return bool(active or self._waiting)

    def _deliver(self, stream: Stream, sample: int, tokens, steps, finished: bool) -> None:
        new = slice(stream._sent[sample], None)
        stream._sent[sample] = len(tokens)
        end = None
        if finished:
            end = "stop" if int(tokens[-1]) in self._ends else "length"
        stream._pieces.put(Piece(sample, tokens[new].tolist(), steps[new].tolist(), end))
