"""The clients that measure a server."""

import contextlib
import http.client
import http.server
import threading
from collections.abc import Iterator

import pytest

from trm_jax.benchmark import Endpoint, LoadError, measure_load
from trm_jax.demo import problems

QUESTIONS = [row["question"] for row in problems.split("test")[:9]]


def test_every_question_is_asked_once_and_its_answer_timed(running):
    load = measure_load(Endpoint(f"{running.url}/v1", "demo", "secret"), QUESTIONS, clients=4, max_tokens=12)
    assert len(load.answers) == 9
    assert all(0 < answer.first <= answer.whole <= load.seconds for answer in load.answers)
    assert all(0 < answer.tokens <= 12 for answer in load.answers)
    assert load.describe().startswith("4 clients, 9 answers in ")


def test_a_server_that_refuses_or_is_not_there_is_an_error(running):
    for url, key, message in [
        (f"{running.url}/v1", "wrong", "answers with 401"),
        (f"{running.url}/v2", "secret", "answers with 404"),
        ("http://127.0.0.1:9/v1", "secret", "cannot be asked: .*refused"),
    ]:
        with pytest.raises(LoadError, match=message):
            measure_load(Endpoint(url, "demo", key), QUESTIONS[:2], clients=2, max_tokens=4)


@pytest.mark.parametrize(
    ("url", "kind", "place"),
    [
        ("https://host/v1", http.client.HTTPSConnection, ("host", 443)),
        ("https://host:8443/v1", http.client.HTTPSConnection, ("host", 8443)),
        ("http://host/v1", http.client.HTTPConnection, ("host", 80)),
        ("http://[::1]/v1", http.client.HTTPConnection, ("::1", 80)),
    ],
)
def test_the_scheme_says_how_to_connect_and_where(url, kind, place):
    """Asked by plain HTTP, a server behind https would be sent the key in clear."""
    connection = Endpoint(url, "demo").connect()
    assert type(connection) is kind
    assert (connection.host, connection.port) == place


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "127.0.0.1:8000/v1", "ftp://host/v1", "http:///v1", "http://host:http/v1", "http://a b/v1"],
)
def test_an_address_that_names_no_server_is_an_error(url):
    with pytest.raises(LoadError, match="is no address of a server"):
        measure_load(Endpoint(url, "demo"), QUESTIONS[:4], clients=2, max_tokens=4)


@contextlib.contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that answers each request by these bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()


WORD = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'


def test_events_may_stand_in_other_forms_that_the_interface_allows():
    with answering(b": wait\n\nevent: one\n" + WORD.replace(b"data: ", b"data:") + b"data:[DONE]\n\n") as url:
        load = measure_load(Endpoint(url, "demo"), QUESTIONS[:4], clients=2, max_tokens=4)
    assert [answer.tokens for answer in load.answers] == [1] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WORD + b"data: {oops\n\n", "JSONDecodeError"),
        (b'data: {"choices": [{"delta": null}]}\n\ndata: [DONE]\n\n', "no event of OpenAI's interface"),
        (b'data: {"choices": [1]}\n\ndata: [DONE]\n\n', "no event of OpenAI's interface"),
        (b"data: [1]\n\ndata: [DONE]\n\n", "no event of OpenAI's interface"),
        (b'data: {"usage": {"completion_tokens": null}}\n\ndata: [DONE]\n\n', "no event of OpenAI's interface"),
        (WORD, "the stream ends without"),
        (b"<html>It works!</html>", "the stream ends without"),
    ],
)
def test_what_is_no_answer_is_an_error_and_no_client_goes_missing(content, message):
    with answering(content) as url, pytest.raises(LoadError, match=message):
        measure_load(Endpoint(url, "demo"), QUESTIONS[:4], clients=2, max_tokens=4)


def test_a_fault_of_a_client_is_no_figure(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a fault")

    monkeypatch.setattr(Endpoint, "ask", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        measure_load(Endpoint("http://127.0.0.1:9/v1", "demo"), QUESTIONS[:4], clients=2, max_tokens=4)
