"""The connection to a client: its body, with bounds; events to it; and its going away."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from trm_jax.server.errors import BadRequestError, TooLargeBodyError
from trm_jax.server.generation import Generation

LARGEST_BODY = 2**20  # bytes
BODY_SECONDS = 30.0  # in which a body must come

Result = TypeVar("Result")


def is_here(host: str | None) -> bool:
    """Whether a name or address is this machine's own."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return host == "localhost"


async def read_body(request: Request) -> bytes:
    """Raises ApiError where the body is no JSON by its type, too large or too slow, ClientDisconnect if the client went."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a type that no page of the web can send here without asking first
        raise BadRequestError("the body must come as `Content-Type: application/json`")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > LARGEST_BODY:
                    raise TooLargeBodyError(f"the body is larger than {LARGEST_BODY:,} bytes")
    except TimeoutError:
        raise BadRequestError(f"the body did not come within {BODY_SECONDS:g} s") from None
    return bytes(content)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is given up with ClientDisconnect when the client has gone; its body must be read."""

    async def wait_for_its_end() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone, working = asyncio.ensure_future(wait_for_its_end()), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        gone.cancel()
        working.cancel()


class Events(StreamingResponse):
    """A stream of events; if its client goes away, even before the first one, the rows are given up."""

    def __init__(self, events: AsyncIterator[bytes], generation: Generation, cut_off: Callable[[], None]):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._generation, self._cut_off = generation, cut_off

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()
            if not self._generation.has_ended:
                self._cut_off()
