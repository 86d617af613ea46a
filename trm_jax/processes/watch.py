"""How processes end: when one does before its time, all do, and the user is told why in one line.

JAX would end them too, but only after a while, and with a page of text for each process. Until then those whose neighbour is
gone wait on their GPUs for numbers that never come.
"""

import contextlib
import os
import pathlib
import queue
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from tqdm import tqdm

from trm_jax.processes.link import Link

DIED = 1  # the exit status of all others when a process was killed
PATIENCE = 10.0  # seconds that a process waits for process 0 to end it
ITSELF = 3.0  # seconds in which process 0 mostly meets the same error, tells it and tidies up


class Watch:
    """Listens, in threads, to the links of this process: those of process 0 with all others, or that of another with it."""

    def __init__(self, links: Mapping[int, Link], is_first: bool):
        self._links, self._is_first = links, is_first
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ending = threading.Lock()
        for link in links.values():
            threading.Thread(target=self._listen, args=[link], daemon=True).start()

    def say(self, value: Any) -> None:
        """On process 0: tells all others."""
        for link in self._links.values():
            with contextlib.suppress(OSError):  # of one that is gone `_listen` hears
                link.send(says=value)

    def hear(self) -> Any:
        """On the others: what process 0 says next; on process 0: what any other reports next."""
        return self._said.get()

    def has_heard(self) -> bool:
        """Whether `hear` need not wait."""
        return not self._said.empty()

    def report(self, value: Any) -> None:
        """On the others: tells process 0."""
        with contextlib.suppress(OSError):
            self._links[0].send(says=value)

    def part(self) -> None:
        """Tells that this process ends now because all is done."""
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.send(done=True)

    def end_all(self, message: str, status: int) -> NoReturn:
        """Ends all processes with this status, now; process 0 tells the message, or the one that came before it."""
        if not self._is_first:
            with contextlib.suppress(OSError):
                self._links[0].send(end=message, status=status)
                time.sleep(PATIENCE)
        self._end(message, status)

    def _listen(self, link: Link) -> None:
        while (message := link.receive()) is not None:
            if "done" in message:
                return
            if "says" in message:
                self._said.put(message["says"])
            elif self._is_first:
                time.sleep(ITSELF)
                self._end(f"{link.name}: {message['end']}", message["status"])
            else:
                os._exit(message["status"])
        self._end(
            f"{link.name} has ended without a word, and so all others end; what was saved stays, the same command goes on",
            DIED,
        )

    def _end(self, message: str, status: int) -> NoReturn:
        self._ending.acquire()  # never released: a second thread waits here for the end
        if self._is_first:
            for link in self._links.values():
                with contextlib.suppress(OSError):
                    link.send(end=message, status=status)
        try:
            with tqdm.external_write_mode(sys.stderr):  # without the progress bar, which does not come back
                print(f"{pathlib.Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
                os._exit(status)
        finally:  # also where nobody reads the message any more
            # Not sys.exit: this may be a thread, and JAX would wait at the end for processes that are gone.
            os._exit(status)
