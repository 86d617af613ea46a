"""How the server ends: by signals, whenever they come, and whatever the engine is doing."""

import signal
import threading

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from starlette.applications import Starlette

from trm_jax.server import address, open_socket


class FakeEngine:
    """An engine that notes what it is told, and says whether it is at its end."""

    def __init__(self, ends: bool = True):
        self.told, self._ends = [], ends

    def refuse_waiting(self) -> None:
        self.told.append("refuse")

    def abandon(self) -> None:
        self.told.append("abandon")

    def close(self, patience: float) -> bool:
        self.told.append("close")
        return self._ends


@pytest.fixture
def run(monkeypatch):
    """Runs a server that gets SIGTERM before uvicorn listens to signals; without that it would run for ever."""

    def run_server(server: address._Server, sockets) -> None:
        late = threading.Timer(20, server.__setattr__, ["should_exit", True])
        late.start()
        signal.raise_signal(signal.SIGTERM)
        whole(server, sockets)
        assert late.is_alive()
        late.cancel()

    def run(engine: FakeEngine) -> None:
        with open_socket("127.0.0.1", 0) as listening:
            address.run(Starlette(), listening, engine)

    whole = address._Server.run
    monkeypatch.setattr(address._Server, "run", run_server)
    return run


def test_a_signal_ends_a_server_that_is_just_starting(run):
    before, engine = signal.getsignal(signal.SIGTERM), FakeEngine()
    run(engine)
    assert engine.told[0] == "refuse"
    assert engine.told[-1] == "close"
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_engine_that_does_not_come_to_its_end_is_left(run, monkeypatch):
    """Its thread may be compiling a program for minutes, and nobody waits for that any more."""
    ended = []
    monkeypatch.setattr(address.os, "_exit", ended.append)
    run(FakeEngine(ends=True))
    assert ended == []
    run(FakeEngine(ends=False))
    assert ended == [0]
