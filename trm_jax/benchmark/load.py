"""How a server that speaks OpenAI's interface holds up under many clients, whoever has written it."""

import contextlib
import dataclasses
import http.client
import json
import queue
import statistics
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence

from trm_jax.errors import UserError


class LoadError(UserError):
    """A server that cannot be reached, or that answers by an error."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where to ask, and for which model."""

    url: str  # with /v1 at its end
    model: str
    key: str | None = None

    def connect(self) -> http.client.HTTPConnection:
        """A connection for `ask`, which opens it. Raises LoadError if the URL names no server."""
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            place = urllib.parse.urlsplit(self.url)
            kind, port = kinds[place.scheme], place.port
            if not place.hostname:
                raise ValueError
            return kind(place.hostname, kind.default_port if port is None else port, timeout=600)
        except (KeyError, ValueError, http.client.InvalidURL):
            raise LoadError(f"{self.url} is no address of a server, such as http://127.0.0.1:8000/v1") from None

    def ask(self, connection: http.client.HTTPConnection, question: str, max_tokens: int) -> "Answered":
        """Asks, and reads the stream to its end. Raises LoadError."""
        messages = [{"role": "user", "content": question}]
        wish = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        wish["stream_options"] = {"include_usage": True}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        started, first, tokens = time.perf_counter(), None, 0
        try:
            connection.request(
                "POST", f"{urllib.parse.urlsplit(self.url).path}/chat/completions", json.dumps(wish), headers
            )
            response = connection.getresponse()
            if response.status != 200:
                raise LoadError(
                    f"{self.url} answers with {response.status}: {response.read(300).decode(errors='replace')}"
                )
            for event in _events(response):
                if "error" in event:
                    raise LoadError(f"{self.url} ends an answer: {event['error']}")
                if any(choice.get("delta", {}).get("content") for choice in event.get("choices") or []):
                    first = first or time.perf_counter() - started
                    tokens += 1
                if event.get("usage"):
                    tokens = int(event["usage"]["completion_tokens"])
            response.read()  # whatever is behind the events, so that the connection can be used again
        except LoadError:
            raise
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise LoadError(f"{self.url} cannot be asked: {error or type(error).__name__}") from None
        except Exception as error:  # whatever a server makes up
            raise LoadError(f"{self.url} sends what is no event of OpenAI's interface: {error!r}") from None
        whole = time.perf_counter() - started
        return Answered(first or whole, whole, tokens)


def _events(response: http.client.HTTPResponse) -> Iterator[dict]:
    """The events of a stream. Raises ValueError if one is no JSON, or if the stream ends too early."""
    content = None
    for line in response:
        if line.startswith(b"data:"):
            content = line.decode().removeprefix("data:").strip()
            if content != "[DONE]":
                yield json.loads(content)
    if content != "[DONE]":
        raise ValueError("the stream ends without [DONE]")


@dataclasses.dataclass(frozen=True)
class Answered:
    """The times of one answer, in seconds."""

    first: float  # until its first text
    whole: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Load:
    """What so many clients got, each of which asks again as soon as it has its answer."""

    clients: int
    seconds: float
    answers: Sequence[Answered]

    def describe(self) -> str:
        """The figures for a person."""
        first = sorted(answer.first for answer in self.answers)
        late = first[min(int(0.95 * len(first)), len(first) - 1)]
        tokens = sum(answer.tokens for answer in self.answers)
        return (
            f"{self.clients} clients, {len(self.answers)} answers in {self.seconds:.1f} s: "
            f"{len(self.answers) / self.seconds:.2f} answers/s, {tokens / self.seconds:.0f} tokens/s, first text after "
            f"{1000 * statistics.median(first):.0f} ms (median), {1000 * late:.0f} ms (95 %)"
        )


def measure_load(server: Endpoint, questions: Sequence[str], clients: int, max_tokens: int) -> Load:
    """Asks all questions, by so many clients at the same time. Raises LoadError.

    Example: `measure_load(Endpoint("http://127.0.0.1:8000/v1", "gsm8k"), questions, clients=8, max_tokens=48).describe()`.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for question in questions:
        waiting.put(question)
    answers: list[Answered] = []
    faults: list[Exception] = []

    def work() -> None:
        try:
            with contextlib.closing(server.connect()) as connection, contextlib.suppress(queue.Empty):
                while not faults:
                    answers.append(server.ask(connection, waiting.get_nowait(), max_tokens))
        except Exception as error:  # of whatever kind: a client that is missing would change the figures
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return Load(clients, time.perf_counter() - started, answers)
