"""Runs parts of a check, each in a process of its own with a time limit; what was found before a part is cut stays."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection


@dataclasses.dataclass(frozen=True)
class Finding:
    """A figure, or whether something holds."""

    what: str
    found: str
    holds: bool | None = None  # None: a figure to which there is no bound


@dataclasses.dataclass(frozen=True)
class Part:
    """Something to find out. `run` yields what it finds, and must be a function that can be pickled."""

    name: str
    seconds: float  # after which it is cut
    run: Callable[[], Iterable[Finding]]
    xla_flags: str = ""  # in addition to those of the environment


def run_parts(parts: Sequence[Part], seconds: float) -> Iterator[tuple[Part, Finding]]:
    """Yields what the parts find, as they find it. None of them runs when all together have taken `seconds`.

    A part that ends in an error, dies or is cut adds a finding that says so and does not hold, and the next one starts.

    Example: `for part, finding in run_parts(make_parts(scripts, tiny=True), 540): print(part.name, finding)`.
    """
    end = time.monotonic() + seconds
    for part in parts:
        left = min(part.seconds, end - time.monotonic())
        if left <= 0:
            yield part, Finding("left out", f"the whole has taken its {seconds:.0f} s", holds=False)
            continue
        for finding in _run(part, left):
            yield part, finding


def table(findings: Iterable[tuple[Part, Finding]]) -> str:
    """The findings in Markdown. Example: `print(table(run_parts(parts, 540)))`."""
    lines = ["| part | what | found | holds |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: ""}
    for part, finding in findings:
        cells = part.name, finding.what, finding.found, words[finding.holds]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _run(part: Part, seconds: float) -> Iterator[Finding]:
    context = multiprocessing.get_context("spawn")  # a process that has inherited nothing of JAX
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_find, args=(part.run, sender))
    deadline = time.monotonic() + seconds
    with _flags(part.xla_flags):
        process.start()
    sender.close()
    try:
        while receiver.poll(max(0, deadline - time.monotonic())):
            yield receiver.recv()
        yield Finding("cut", f"it has taken {seconds:.0f} s", holds=False)
    except EOFError:  # it has closed its end
        process.join()
        if process.exitcode:
            yield Finding("died", f"exit code {process.exitcode}", holds=False)
    finally:
        # The part and the processes that it has started are one group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _find(run: Callable[[], Iterable[Finding]], sender: Connection) -> None:
    os.setsid()
    try:
        for finding in run():
            sender.send(finding)
    except Exception as error:  # whatever it is, it is a finding, and the other parts go on
        traceback.print_exc()
        message = str(error).strip().partition("\n")[0]
        sender.send(Finding("error", f"{type(error).__name__}: {message:.200}", holds=False))


@contextlib.contextmanager
def _flags(added: str) -> Iterator[None]:
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{before or ''} {added}".strip()
    try:
        yield
    finally:
        if before is None:
            del os.environ["XLA_FLAGS"]
        else:
            os.environ["XLA_FLAGS"] = before
