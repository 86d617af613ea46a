"""A connection between two processes."""

import json
import socket
import threading
from typing import Any

LONGEST = 2**26  # bytes of a message


class Link:
    """Carries messages, which are JSON objects, to and from the process at the other end."""

    def __init__(self, connection: socket.socket, name: str):
        self.name = name  # of the process at the other end, as the user is told it
        self._connection, self._lines, self._lock = connection, connection.makefile("rb"), threading.Lock()

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def send(self, **message: Any) -> None:
        """Raises OSError if the other process is gone."""
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next message; None if the other process is gone, or says nothing, or nothing that is a message."""
        self._connection.settimeout(seconds)
        try:
            message = json.loads(self._lines.readline(LONGEST))
        except (OSError, ValueError):
            return None
        finally:
            self._connection.settimeout(None)
        return message if isinstance(message, dict) else None
