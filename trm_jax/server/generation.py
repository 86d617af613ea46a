"""The completions of one call, as they come out of the engine: text, and not a word behind a stop string."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from trm_jax.decoding import Request
from trm_jax.serving import Engine, Piece, Stream, TextStream


class Part(NamedTuple):
    """What has come of a completion; with `end` its last part."""

    choice: int
    text: str
    end: str | None


class _QueuedStream(Stream):
    """A stream whose pieces go to a queue of the event loop."""

    def __init__(self, request: Request, loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue):
        super().__init__(request)
        self._loop, self._queue = loop, pieces

    def put(self, piece: Piece | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (self, piece))


class Generation:
    """The samples of several prompts; the completions are numbered prompt by prompt.

    Example: `async for part in Generation(engine, "trm", requests, tokenizer, stops=["\\n\\n"]): ...`.
    """

    def __init__(self, engine: Engine, head: str, requests: Sequence[Request], tokenizer, stops: Sequence[str]):
        """Hands all of them to the engine, or none. Raises GenerationError or EngineError."""
        loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue()
        self._streams: dict[Stream, int] = {}  # with the number of its first completion
        self._texts: list[TextStream] = []
        self._by_token = bool(stops)  # so that no token behind a stop string is counted
        self.has_ended = False  # all completions have, or the engine could not finish them
        self.prompt_tokens, self.completion_tokens = sum(len(request.prompt) for request in requests), 0
        try:
            for request in requests:
                stream = engine.submit(head, request, _QueuedStream(request, loop, self._pieces))
                self._streams[stream] = len(self._texts)
                self._texts += [TextStream(tokenizer, stops) for _ in range(request.samples)]
        except Exception:
            self.cancel()
            raise

    @property
    def count(self) -> int:
        """Completions."""
        return len(self._texts)

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Ends when all completions have. Raises EngineError if the engine fails or is closed."""
        left = self.count
        while left:
            stream, piece = await self._pieces.get()
            if isinstance(piece, Exception):
                self.has_ended = True
                raise piece
            if stream.has_given_up(piece.sample):
                continue
            part = self._part(stream, piece)
            left -= part.end is not None
            self.has_ended = not left
            yield part

    def _part(self, stream: Stream, piece: Piece) -> Part:
        choice = self._streams[stream] + piece.sample
        text, end, new = self._texts[choice], piece.end, ""
        for tokens in [[token] for token in piece.tokens] if self._by_token else [piece.tokens]:
            new += text.add(tokens)
            self.completion_tokens += len(tokens)
            if text.stopped:
                break
        if end and not text.stopped:
            new += text.end()
        if text.stopped:
            stream.cancel_sample(piece.sample)
            end = "stop"
        return Part(choice, new, end)

    def cancel(self) -> None:
        """Gives up what has not ended: its rows are free after the chunk that is being decoded."""
        for stream in self._streams:
            stream.cancel()
