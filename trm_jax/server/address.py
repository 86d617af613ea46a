"""Where the server listens, and how it ends."""

import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from trm_jax.errors import UserError

_log = logging.getLogger(__name__)

PATIENCE = 30  # seconds that answers get to come to their end


def require_key(host: str, key: str | None) -> None:
    """Raises UserError if others than this machine could ask, and no key is wanted of them.

    Example: `require_key("127.0.0.1", None)`.
    """
    if key is None and not _is_here(host):
        raise UserError(f"--host {host} can be reached by others: give an --api-key that they must send")


def _is_here(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; of port 0 the system chooses a free one. Raises UserError.

    Example: `open_socket("127.0.0.1", 8000).getsockname()[1]`.
    """
    if not 0 <= port < 2**16:  # the system would take its last sixteen bits
        raise UserError(f"cannot listen on {host}, port {port}: ports go up to {2**16 - 1}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None


def run(app: Starlette, listening: socket.socket, on_exit: Callable[[], None]) -> None:
    """Serves until SIGTERM or Ctrl-C. Then `on_exit` is called, connections are refused, and answers get 30 s to end.

    Example: `run(make_app(served), open_socket("127.0.0.1", 8000), engine.refuse_waiting)`.
    """
    settings = dict(timeout_graceful_shutdown=PATIENCE, access_log=False, lifespan="off", ws="none")
    server = _Server(uvicorn.Config(app, log_config=None, log_level="warning", **settings), on_exit)
    # uvicorn raises the signal once more when it has ended: this process then has an engine to close.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(number, frame) -> None:
    pass


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]):
        super().__init__(config)
        self._on_exit = on_exit

    def handle_exit(self, sig, frame) -> None:
        if not self.should_exit:
            _log.info(f"ending: answers that have begun get {PATIENCE} s")
            self._on_exit()
        super().handle_exit(sig, frame)
