"""How processes find each other: all others connect with process 0, where HOST:PORT says."""

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from trm_jax.errors import UserError, listing
from trm_jax.processes.link import Link

PATIENCE = 45.0  # seconds that processes wait for each other
GREETING = 5.0  # seconds that a new connection has for its first message
PAUSE = 0.2  # seconds between two attempts to reach process 0


class ProcessesError(UserError):
    """Processes that do not find each other; the message says which."""


def gather(port: int, count: int) -> dict[int, Link]:
    """On process 0: the links with all other processes, by their numbers. Raises ProcessesError."""
    links: dict[int, Link] = {}
    with _listen(port) as server:
        try:
            _fill(links, server, count)
        except ProcessesError:
            for link in links.values():
                _refuse(link)
            raise
    return links


def _listen(port: int) -> socket.socket:
    """Raises ProcessesError if the port is taken."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise ProcessesError(
            f"process 0 cannot wait for the others at port {port} of {socket.gethostname()}: {error.strerror}"
        ) from None


def _fill(links: dict[int, Link], server: socket.socket, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(links) < count - 1:
        server.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            link = Link(server.accept()[0], "a process")
        except TimeoutError:
            missing = listing(number for number in range(1, count) if number not in links)
            raise ProcessesError(
                f"of {count} processes {missing} did not come to {socket.gethostname()} within {PATIENCE:.0f} s"
            ) from None
        hello = link.receive(GREETING)
        if hello is None or not isinstance(hello.get("process"), int):
            link.close()  # a stranger
            continue
        if fault := _fault(hello, links, count):
            _refuse(link)
            raise ProcessesError(fault)
        link.name = f"process {hello['process']} ({hello.get('host')})"
        links[hello["process"]] = link


def _fault(hello: Mapping[str, Any], links: Mapping[int, Link], count: int) -> str | None:
    number, of = hello["process"], hello.get("of")
    if of != count:
        return f"process 0 was started as one of {count} processes, process {number} as one of {of}"
    if number in links:
        return f"two processes were started as process {number} of {count}"
    return None


def _refuse(link: Link) -> None:
    with contextlib.suppress(OSError):
        link.send(refused=True)
    link.close()


def reach(host: str, port: int, number: int, count: int) -> tuple[Link, dict[str, Any]]:
    """On the other processes: the link with process 0, and what that says once all are there.

    Raises ProcessesError. If process 0 refuses, which it tells the user itself, this process ends.
    """
    link = Link(_connect(host, port), f"process 0 ({host}:{port})")
    link.send(process=number, of=count, host=socket.gethostname())
    answer = link.receive(PATIENCE + GREETING)
    if answer is None:
        link.close()
        raise ProcessesError(f"process 0 at {host}:{port} has ended, or it is not process 0 that answers there")
    if "refused" in answer:
        link.close()
        raise SystemExit(2)
    return link, answer


def _connect(host: str, port: int) -> socket.socket:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection((host, port), timeout=GREETING)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ProcessesError(
                    f"process 0 does not answer at {host}:{port} ({error.strerror or error}), for {PATIENCE:.0f} s"
                ) from None
        time.sleep(PAUSE)
