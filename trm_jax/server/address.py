"""Where the server listens, and how it ends."""

import logging
import os
import signal
import socket
import sys
import threading

import uvicorn
from starlette.applications import Starlette

from trm_jax.errors import UserError
from trm_jax.server.connection import is_here
from trm_jax.serving import Engine

_log = logging.getLogger(__name__)

PATIENCE = 30  # seconds that answers get to come to their end
FAREWELL = 5  # seconds for telling the others that theirs will not, and for the engine to come to its end


def require_key(host: str, key: str | None) -> None:
    """Raises UserError if others than this machine could ask, and no key is wanted of them.

    Example: `require_key("127.0.0.1", None)`.
    """
    if key is None and not is_here(host):
        raise UserError(f"--host {host} can be reached by others: give an --api-key that they must send")
    if key is not None and not key.isascii():
        raise UserError("--api-key has letters that no header can carry: take those of ASCII")


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; of port 0 the system chooses a free one. Raises UserError.

    Example: `open_socket("127.0.0.1", 8000).getsockname()[1]`.
    """
    if not 0 <= port < 2**16:  # the system would take its last sixteen bits
        raise UserError(f"cannot listen on {host}, port {port}: ports go up to {2**16 - 1}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except socket.gaierror as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    except UnicodeError:
        raise UserError(f"cannot listen on {host}: that is no name of a host") from None
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {os.strerror(error.errno)}") from None


def run(app: Starlette, listening: socket.socket, engine: Engine) -> None:
    """Serves until SIGTERM or Ctrl-C. Then what waits is refused, nobody can connect, and answers get 30 s to end.

    A second signal ends them at once. An engine that is still at work then, such as on the compilation of a program, is not
    waited for: the process ends.

    Example: `run(make_app(served), open_socket("127.0.0.1", 8000), engine)`.
    """
    settings = dict(timeout_graceful_shutdown=PATIENCE + FAREWELL, access_log=False, lifespan="off", ws="none")
    server = _Server(uvicorn.Config(app, log_config=None, log_level="warning", **settings), engine)
    # Set before uvicorn sets its own, so that an early signal counts. It raises them once more when it has ended, which then
    # asks for nothing new.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
        if not engine.close(FAREWELL):
            _log.info("ending, though the engine is still at work")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # XLA crashes when the interpreter takes away the memory that it works on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig, frame) -> None:
        if self.should_exit:
            self._engine.abandon()
            return
        _log.info(f"ending: answers that have begun get {PATIENCE} s")
        self._engine.refuse_waiting()
        timer = threading.Timer(PATIENCE, self._engine.abandon)
        timer.daemon = True
        timer.start()
        super().handle_exit(sig, frame)
