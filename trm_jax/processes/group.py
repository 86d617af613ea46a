"""The processes that this one has joined, and what is asked of them."""

import dataclasses
import functools
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trm_jax.processes.meeting import PATIENCE, gather, reach
from trm_jax.processes.watch import DIED, Watch

HEARTBEAT = 40  # seconds after which JAX gives up a host that is silent without having closed its connections
FOLLOWS = 2.0  # seconds after which a fault is this process's own, and does not follow from the death of another

Item = TypeVar("Item")

_watch: Watch | None = None
_stops: Any = None  # JAX's agreement on the batch behind which all processes stop


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of this process among several."""

    host: str  # of process 0
    port: int  # at which process 0 waits for the others
    count: int  # of processes
    number: int  # of this one
    devices: tuple[int, ...] | None = None  # of the host, by number, that this process uses; None for all


def join(place: Place) -> None:
    """Joins the other processes, before JAX is asked for a device: from then on it knows the devices of all.

    All but process 0 are quiet from then on. Raises ProcessesError if they do not find each other within a minute.

    Example: `join(Place("node1", 9911, count=2, number=0))`.
    """
    import jax
    from jax._src import distributed
    from jax._src.lib import _jax

    global _watch, _stops
    is_first = place.number == 0
    if is_first:
        links, port = gather(place.port, place.count), _free_port()
        for link in links.values():
            link.send(port=port)
    else:
        link, answer = reach(place.host, place.port, place.number, place.count)
        links, port = {0: link}, answer["port"]
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        logging.getLogger("trm_jax").setLevel(logging.ERROR)
    _watch = Watch(links, is_first)
    # Orbax would ask JAX's own agreement too, in a thread, of batches that are long past: then processes may disagree.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        f"{place.host}:{port}",
        place.count,
        place.number,
        place.devices,
        "deactivate",
        initialization_timeout=int(PATIENCE),
        heartbeat_timeout_seconds=HEARTBEAT,
    )
    _stops = _jax.create_preemption_sync_manager()
    _stops.initialize(distributed.global_state.client)


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def several() -> bool:
    """Whether several processes compute together. Example: `if several(): ...`."""
    import jax

    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is process 0, which writes and talks for all, or the only one. Example: `if is_first(): ...`."""
    import jax

    return jax.process_index() == 0


def first_only(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function that only process 0 runs; the others do not wait for it. Example: `@first_only`."""

    @functools.wraps(function)
    def guarded(*args, **options) -> None:
        if is_first():
            function(*args, **options)

    return guarded


def first_says(value: Any = None) -> Any:
    """What process 0 says, on all processes; the others wait for it, and what they would say does not count.

    The value is one that JSON knows. Example: `first_says(path.read_text())`.
    """
    if _watch is None:
        return value
    if not is_first():
        return _watch.hear()
    _watch.say(value)
    return value


def number() -> tuple[int, int]:
    """The number of this process, and how many there are. Example: `number()` is `(0, 1)` where it is alone."""
    import jax

    return jax.process_index(), jax.process_count()


def of_all(
    own: Iterator[Item], others: int, to_json: Callable[[Item], Any], from_json: Callable[[Any], Item]
) -> Iterator[Item]:
    """On process 0 what all processes yield, as it comes, of which `others` come from the others; there what they yield.

    Example: `for path in of_all(paths, 0, str, pathlib.Path): ...`.
    """
    if not is_first():
        for item in own:
            _watch.report(to_json(item))
            yield item
        return
    for item in own:
        yield item
        while others and _watch.has_heard():
            others -= 1
            yield from_json(_watch.hear())
    for _ in range(others):
        yield from_json(_watch.hear())


def stop_at(batch: int) -> bool:
    """Whether all processes stop behind this batch, because one of them got SIGTERM: all get the same answer.

    Each asks once for each batch, in their order. From `join` on the signal does nothing else.

    Example: `if stop_at(number): ...`.
    """
    return _stops.reached_sync_point(batch)


def part() -> None:
    """Tells the other processes that this one ends because all is done. Example: `part()`."""
    if _watch is not None:
        _stops.shutdown()
        _watch.part()


def end_all(message: str, status: int) -> None:
    """Ends this process and all that it has joined, and tells the message once; does nothing if there are no others.

    Example: `end_all("the disk is full", 2)`.
    """
    if _watch is not None:
        _watch.end_all(message, status)


def end_by_fault(error: Exception) -> None:
    """Ends all processes because of a fault of the program in this one; does nothing if there are no others.

    Example: `end_by_fault(error)`.
    """
    if _watch is not None:
        time.sleep(FOLLOWS)  # the watch ends this process if it is the death of another that is noticed here
        traceback.print_exception(error)
        _watch.end_all(f"{type(error).__name__}, see above", DIED)
