"""scripts/serve.py as a process: how it starts, what it refuses, and how it ends."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.command_line import Started, run

pytest.importorskip("starlette", reason="the extra serve is not installed")


@contextlib.contextmanager
def serving(checkpoint, *options) -> Iterator[tuple[Started, str]]:
    """A server that listens, and its address."""
    with Started("serve.py", "--checkpoint", checkpoint, "--port", 0, *options) as started:
        deadline = time.monotonic() + 120
        while "http://" not in started.printed():
            assert not started.has_ended(), started.end(1).stderr
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield started, started.printed().split(": ")[0]


def test_a_signal_ends_it_when_the_answers_that_have_begun_are_whole(demo_model_folder):
    """Those that wait are refused, and nobody can connect any more."""
    # Sixteen supervision steps a token, so that the answer is far from its end when the other one is known to wait.
    options = ["--rows", 1, "--name", "demo", "--api-key", "secret", "--max-length", 400, "--supervision-steps", 16]
    wish = {"model": "demo", "prompt": [5, 6, 7], "max_tokens": 380, "temperature": 0}
    with (
        serving(demo_model_folder, *options) as (started, address),
        httpx.Client(base_url=address, headers={"Authorization": "Bearer secret"}, timeout=120) as client,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        streamed = wish | {"stream": True, "stream_options": {"include_usage": True}}
        with client.stream("POST", "/completions", json=streamed) as response:
            lines = response.iter_lines()
            next(lines)
            waiting = pool.submit(client.post, "/completions", json=wish)
            while "trm_requests_waiting 1.0" not in client.get(address.removesuffix("/v1") + "/metrics").text:
                assert not waiting.done()
            os.kill(started.pid, signal.SIGTERM)
            *_, usage, end = [line for line in lines if line]
        assert waiting.result().status_code == 503
        assert "closed" in waiting.result().json()["error"]["message"]
        ended = started.end(60)
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert end == "data: [DONE]"
    assert json.loads(usage.removeprefix("data: "))["usage"]["completion_tokens"] == 380


def test_a_second_signal_ends_every_answer_at_once_and_says_so(demo_model_folder):
    options = ["--rows", 1, "--name", "demo", "--max-length", 400, "--supervision-steps", 1]
    wish = {"model": "demo", "prompt": [5, 6, 7], "max_tokens": 380, "temperature": 2, "stream": True}
    with (
        serving(demo_model_folder, *options) as (started, address),
        httpx.Client(base_url=address, timeout=120) as client,
        client.stream("POST", "/completions", json=wish) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        os.kill(started.pid, signal.SIGTERM)
        time.sleep(0.05)
        os.kill(started.pid, signal.SIGTERM)
        rest = [line for line in lines if line]
        ended = started.end(60)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert (
        "the engine is being closed" in rest[-1] or rest[-1] == "data: [DONE]"
    )  # where it was quicker than the signals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "can be reached by others: give an --api-key"),
        (["--host", "::"], "can be reached by others: give an --api-key"),
        (["--host", "nowhere.invalid", "--api-key", "a"], "cannot listen on nowhere.invalid"),
        (["--port", 99999], "cannot listen on 127.0.0.1, port 99999"),
        (["--rows", 0], "--rows is 0"),
        (["--api-key", ""], "--api-key is empty"),
        (["--api-key", "é"], "--api-key has letters that no header can carry"),
        (["--host", "a..b", "--api-key", "a"], "cannot listen on a..b: that is no name of a host"),
        (["--checkpoint", "nowhere"], "no config.json"),
    ],
)
def test_what_cannot_be_served_is_one_line(demo_model_folder, options, message):
    done = run("serve.py", "--checkpoint", demo_model_folder, "--port", 0, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve.py", "--checkpoint", tmp_path / "nothing", "--port", port)
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use\n" in done.stderr
