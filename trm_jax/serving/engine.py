"""An engine that completes requests: one thread makes every call of JAX, and requests come and go between its chunks."""

import collections
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Mapping
from typing import Literal, Self

import jax

from trm_jax.decoding import (
    CAPACITY_STEP,
    MOST_ROWS,
    ONE_BY_ONE,
    DecodeConfig,
    Request,
    Room,
    Rows,
    decode_config,
    padded_length,
    require_prompts,
    round_up,
)
from trm_jax.hardware import row_parts, tensor_parts
from trm_jax.model import QwenTRM
from trm_jax.serving.stream import EndedError, EngineError, FullError, Piece, Stream

_log = logging.getLogger(__name__)

CHUNK = 16  # steps after which requests may join and leave, and are told what they have got
MOST_ROWS_ON_CPU = 8  # where each row more makes a step longer


class Engine:
    """Batches of rows, one for each way to decode, and the requests that wait for a row.

    A greedy completion is what `generate` makes of the prompt, whoever else is served.

    Example: `with Engine(model, {"trm": head_config(model, "trm")}, capacity=512) as engine: ...`.
    """

    def __init__(
        self,
        model: QwenTRM,
        configs: Mapping[str, DecodeConfig],
        capacity: int,
        rows: int | None = None,
        most_waiting: int = 256,
        warm: bool = False,
    ):
        """`model` is one of `for_decoding`, `configs` have names and rows that may draw.

        Args:
            capacity: tokens of the longest prompt and its completion together.
            rows: of each batch, a mesh rounds them up; None: as many as fit into the memory, at most 64, on a CPU 8.
            most_waiting: completions that may wait for a row, beside those that find a free one; more are refused.
            warm: compile at once every program that requests can need.

        Raises NoRoomError.
        """
        self.capacity = min(round_up(capacity, CAPACITY_STEP), model.backbone.config.max_length)
        count = self._choose_rows(model, list(configs.values()), rows)
        self._backbone_config = model.backbone.config
        self._batches = {
            name: _Batch(Rows(model, config, count, self.capacity, self.capacity, ONE_BY_ONE), set(config.end_tokens))
            for name, config in configs.items()
        }
        self.rows = count
        self.most_waiting = most_waiting
        self._mesh = jax.sharding.get_mesh()  # that of this thread, which another does not have by itself
        self._changed = threading.Condition()
        self._closed, self.failure = False, None
        if warm:
            for batch in self._batches.values():
                batch.rows.compile()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def _choose_rows(self, model: QwenTRM, configs: list[DecodeConfig], wanted: int | None) -> int:
        shapes = dict(capacity=self.capacity, prompt_length=padded_length(self.capacity), together=1)
        parts = dict(row_parts=row_parts(), tensor_parts=tensor_parts(), options=("--rows", "--max-length"))
        first, *others = (Room(model, config, **shapes, **parts) for config in configs)
        room = dataclasses.replace(first, beside=tuple(others))
        most = room.row_parts * (MOST_ROWS_ON_CPU if jax.default_backend() == "cpu" else MOST_ROWS)
        return room.choose_rows(wanted, most=wanted or most, samples=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Requests that wait for a row."""
        return sum(len(batch.waiting) for batch in self._batches.values())

    @property
    def busy(self) -> dict[str, int]:
        """Rows at work, by the name of the config."""
        return {name: len(batch.rows) - len(batch.rows.free) for name, batch in self._batches.items()}

    def submit(self, name: str, request: Request, stream: Stream | None = None) -> Stream:
        """Lets a request wait for its rows; `name` is that of its config. Its pieces come to the `stream` that is returned.

        Raises GenerationError, EngineError, FullError or EndedError if it cannot be taken.
        """
        require_prompts([request.prompt], [request.limit], self._backbone_config)
        if len(request.prompt) + request.limit > self.capacity:
            raise EngineError(
                f"a prompt of {len(request.prompt):,} tokens and {request.limit:,} new ones are more than the "
                f"{self.capacity:,} of a row"
            )
        if request.samples > self.rows:
            raise EngineError(f"{request.samples} completions of a prompt need as many rows; there are {self.rows}")
        stream = stream or Stream(request)
        with self._changed:
            if self._closed or self.failure:
                raise EndedError(str(self.failure or "the engine is closed"))
            batch = self._batches[name]
            batch.waiting.append(stream)
            if (without_row := sum(batch.without_row for batch in self._batches.values())) > self.most_waiting:
                batch.waiting.pop()
                raise FullError(f"{without_row} completions would wait for a row; {self.most_waiting} may")
            self._changed.notify()
        return stream

    def refuse_waiting(self) -> None:
        """Takes no more requests, and ends those that wait; those that have rows go on."""
        with self._changed:
            self._closed = True
            for batch in self._batches.values():
                while batch.waiting:
                    batch.waiting.popleft().put(EndedError("the engine is being closed"))
            self._changed.notify()

    def abandon(self) -> None:
        """Takes no more requests, and ends all that there are, wherever they are."""
        self.refuse_waiting()
        for batch in self._batches.values():
            for stream in batch.taken:
                stream.put(EndedError("the engine is being closed"))
                stream.cancel()

    def close(self, patience: float | None = None) -> bool:
        """Takes no more requests, and waits for those that are taken, or so many seconds. Returns whether all are done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            # An empty mesh is another context than none: what is warm would be compiled again.
            with contextlib.nullcontext() if self._mesh.empty else jax.set_mesh(self._mesh):
                self._work()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            with self._changed:
                self.failure = error
                for batch in self._batches.values():
                    batch.fail(EndedError(f"the engine has failed: {error}"))
            _log.exception("the engine has failed")

    def _work(self) -> None:
        while self._has_work():
            for batch in self._batches.values():
                batch.stop_given_up()
                with self._changed:
                    batch.choose()
                batch.work()

    def _has_work(self) -> bool:
        """Waits for a request. False when there are none and the engine is closed."""
        with self._changed:
            while not (has_work := any(batch.waiting or batch.rows.owners for batch in self._batches.values())):
                if self._closed:
                    break
                self._changed.wait()
        return has_work


def head_config(model: QwenTRM, head: Literal["trm", "backbone"], **settings) -> DecodeConfig:
    """How a head decodes, by requests with temperatures of their own; the backbone alone takes none of the `settings`.

    Example: `head_config(model, "trm", supervision_steps=4)`.
    """
    config = decode_config(model, head=head, **(settings if head == "trm" else {}))
    return dataclasses.replace(config, draws=True)


class _Batch:
    """The rows of one config, and the requests that wait for them."""

    def __init__(self, rows: Rows, ends: set[int]):
        self.rows, self._ends = rows, ends
        self.waiting: collections.deque[Stream] = collections.deque()
        self._chosen: dict[Stream, Request] = {}  # those that are to be read into rows next

    @property
    def without_row(self) -> int:
        """Completions that wait and do not even find a free row."""
        waiting = sum(stream.request.samples for stream in self.waiting if not stream.is_given_up)
        return max(waiting - len(self.rows.free), 0)

    @property
    def taken(self) -> set[Stream]:
        """The requests that wait no more: they have rows, or are being read into them."""
        return {stream for stream, _ in self.rows.owners} | set(self._chosen)

    def stop_given_up(self) -> None:
        """Frees the rows of samples that nobody wants any more."""
        self.rows.stop({(stream, sample) for stream, sample in self.rows.owners if stream.has_given_up(sample)})

    def choose(self) -> None:
        """Takes those waiting requests that find as many free rows as they need, in their order."""
        self.waiting = collections.deque(stream for stream in self.waiting if not stream.is_given_up)
        free = len(self.rows.free)
        while self.waiting and self.waiting[0].request.samples <= free:
            stream = self.waiting.popleft()
            self._chosen[stream] = stream.request
            free -= stream.request.samples

    def work(self) -> None:
        """Reads what was chosen into rows and decodes a chunk: a short one behind new prompts, for their first words."""
        chunk = 1 if self._chosen else CHUNK
        if self._chosen:
            self.rows.read(self._chosen)
            self._chosen = {}
        if self.rows.owners:
            # While requests wait, the next row that ends makes room for one.
            wanted = len(self.rows.free) + 1 if self.waiting else len(self.rows)
            for found in self.rows.advance(wanted, chunk):
                self._deliver(*found)

    def _deliver(self, stream: Stream, sample: int, tokens, steps, finished: bool) -> None:
        new = slice(stream.sent[sample], None)
        stream.sent[sample] = len(tokens)
        end = None
        if finished:
            end = "stop" if int(tokens[-1]) in self._ends else "length"
        stream.put(Piece(sample, tokens[new].tolist(), steps[new].tolist(), end))

    def fail(self, error: Exception) -> None:
        """Ends all requests with an error."""
        for stream in self.taken | set(self.waiting):
            stream.put(error)
        self.waiting.clear()
