"""The server as OpenAI's own client sees it, and as a client that does things wrong does."""

import asyncio
import concurrent.futures
import dataclasses
import json
import time

import httpx
import pytest

from tests.support.models import random_tokens
from trm_jax.data import encode_chat
from trm_jax.decoding import Rows, generate
from trm_jax.demo import problems
from trm_jax.hardware import compilations
from trm_jax.server import app, make_app

openai = pytest.importorskip("openai")

QUESTIONS = [row["question"] for row in problems.split("test")[:32]]
CHAT = "/v1/chat/completions"


def chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def expected(running, questions, head: str, limit: int) -> list[str]:
    """The texts that `generate` makes of these questions."""
    tokenizer = running.served.tokenizer
    prompts = [encode_chat(tokenizer, chat(question)) for question in questions]
    found = generate(running.model, prompts, limit, head=head)
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in found]


def metric(running, name: str) -> float:
    text = httpx.get(f"{running.url}/metrics", headers=running.headers).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def body(**fields) -> dict:
    return {"model": "demo", "messages": chat("a"), "max_tokens": 4, "temperature": 0} | fields


def post(running, content, path: str = CHAT, headers: dict | None = None) -> httpx.Response:
    sent = {"Content-Type": "application/json"} | running.headers | (headers or {})
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return httpx.post(running.url + path, content=content, headers=sent, timeout=60)


@pytest.mark.parametrize(("name", "head"), [("demo", "trm"), ("demo:backbone", "backbone")])
def test_many_at_once_get_what_generate_makes_of_their_questions(running, name, head):
    """Half of them streamed, and nothing is compiled for them."""

    def ask(number: int) -> str:
        settings = dict(model=name, messages=chat(QUESTIONS[number]), temperature=0, max_tokens=24)
        if number % 2:
            return running.client.chat.completions.create(**settings).choices[0].message.content
        events = running.client.chat.completions.create(**settings, stream=True)
        return "".join(event.choices[0].delta.content or "" for event in events)

    texts, compiled = expected(running, QUESTIONS, head, 24), len(compilations())
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == texts
    assert len(set(texts)) > 16
    assert len(compilations()) == compiled


def test_a_whole_answer_says_what_it_took(running):
    answer = running.client.chat.completions.create(**body(messages=chat(QUESTIONS[0]), max_tokens=5))
    assert (answer.object, answer.model) == ("chat.completion", "demo")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens == len(encode_chat(running.served.tokenizer, chat(QUESTIONS[0])))
    longest = running.client.chat.completions.create(**body(messages=chat(QUESTIONS[0]), max_tokens=None))
    assert longest.usage.completion_tokens <= 48
    newer = running.client.chat.completions.create(**body(max_tokens=None, max_completion_tokens=3))
    assert newer.usage.completion_tokens == 3


def test_a_stream_has_the_events_that_clients_expect(running):
    settings = body(messages=chat(QUESTIONS[1]), max_tokens=20, stream=True, stream_options={"include_usage": True})
    lines = [line for line in post(running, settings).text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["finish_reason"] for event in events[:-2]] == [None] * (len(events) - 2)
    assert events[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] <= 20
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    whole = running.client.chat.completions.create(**body(messages=chat(QUESTIONS[1]), max_tokens=20))
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert text == whole.choices[0].message.content


def test_completions_of_texts_and_of_tokens(running):
    complete, tokens = running.client.completions.create, random_tokens(7).tolist()
    both = complete(model="demo", prompt=[tokens, tokens[:4]], max_tokens=6, temperature=0, n=2)
    alone = [complete(model="demo", prompt=part, max_tokens=6, temperature=0) for part in (tokens, tokens[:4])]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in both.choices] == [one.choices[0].text for one in alone for _ in range(2)]
    assert both.usage.prompt_tokens == 11
    text = complete(model="demo", prompt="Tom has 3", temperature=0)
    assert text.usage.completion_tokens == 16  # OpenAI's default
    streamed = complete(model="demo", prompt="Tom has 3", temperature=0, stream=True)
    assert "".join(event.choices[0].text for event in streamed) == text.choices[0].text


def test_draws(running):
    """Samples differ from each other, the same seed draws the same, another seed or none something else."""

    def draw(seed) -> list[str]:
        settings = body(messages=chat(QUESTIONS[2]), max_tokens=24, temperature=1.5, n=3)
        answer = running.client.chat.completions.create(**settings, **({} if seed is None else {"seed": seed}))
        return [choice.message.content for choice in answer.choices]

    first = draw(1)
    assert len(set(first)) == 3
    assert draw(1) == first
    assert all(draw(seed) != first for seed in (2, -1, None))


def test_nothing_comes_behind_a_stop_string_and_its_row_is_free(running):
    settings = body(messages=chat(QUESTIONS[3]), max_tokens=40)
    whole = running.client.chat.completions.create(**settings)
    text = whole.choices[0].message.content
    stop = text[3:6]  # wherever tokens begin and end
    for stream in (False, True):
        found = running.client.chat.completions.create(**settings, stop=[stop, "never"], stream=stream)
        if stream:
            events = list(found)
            assert "".join(event.choices[0].delta.content or "" for event in events) == text[: text.index(stop)]
            assert events[-1].choices[0].finish_reason == "stop"
        else:
            assert found.choices[0].message.content == text[: text.index(stop)]
            assert found.choices[0].finish_reason == "stop"
            assert found.usage.completion_tokens < whole.usage.completion_tokens
    wait_until(lambda: metric(running, "trm_rows_busy") == 0)


def test_a_stop_string_ends_the_sample_that_it_comes_in_and_no_other(running):
    settings = body(messages=chat(QUESTIONS[4]), max_tokens=60, temperature=1.2, n=3, seed=3)

    def texts(**more) -> list[str]:
        choices = running.client.chat.completions.create(**settings, **more).choices
        return [choice.message.content for choice in choices]

    first, *others = texts()
    stop = next(
        first[at : at + 4] for at in range(len(first)) if not any(first[at : at + 4] in text for text in others)
    )
    assert texts(stop=stop) == [first[: first.index(stop)], *others]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_rows(running, stream, monkeypatch):
    """What waits for a row is never read then."""
    read, whole = [], Rows.read
    monkeypatch.setattr(Rows, "read", lambda rows, requests: (read.extend(requests), whole(rows, requests)))
    cut_off = metric(running, "trm_requests_cut_off_total")
    wished = body(prompt=[[1, 2]] * 40, max_tokens=CAPACITY - 2, n=4, temperature=2.0, stream=stream)
    del wished["messages"]
    with httpx.Client(timeout=0.2) as client:
        url, headers = f"{running.url}/v1/completions", running.headers
        if stream:
            with client.stream("POST", url, json=wished, headers=headers) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(url, json=wished, headers=headers)
    wait_until(lambda: metric(running, "trm_requests_cut_off_total") == cut_off + 1)
    wait_until(lambda: metric(running, "trm_rows_busy") == metric(running, "trm_requests_waiting") == 0)
    assert 0 < len(read) < 40


CAPACITY = 192
WRONG = [
    (b"{", 400, "the body is not JSON", None),
    (b"[" * 100_000, 400, "the body is not JSON", None),
    (b"[1]", 400, "not a JSON object", None),
    (b'{"temperature": NaN}', 400, "NaN is no number", None),
    (b"\xff\xfe", 400, "the body is not JSON", None),
    (body(nonsense=1), 400, "nonsense: is not supported", "nonsense"),
    (body(logprobs=True), 400, "logprobs: is not supported", "logprobs"),
    (body(tools=[{"type": "function"}]), 400, "tools: is not supported", "tools"),
    (body(messages=[]), 400, "messages: ", "messages"),
    (body(messages=[{"role": "tool", "content": "a"}]), 400, "messages.0.role", "messages"),
    (
        body(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        400,
        "messages.0.content: is no text, and no list of parts",
        "messages",
    ),
    (
        body(messages=[{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "b"}}]}]),
        400,
        "messages.0.content.0.cache_control: is not supported",
        "messages",
    ),
    (
        body(messages=[*chat("a"), {"role": "assistant", "content": None, "tool_calls": [{"id": "b"}]}]),
        400,
        "messages.1.tool_calls: is not supported",
        "messages",
    ),
    (body(messages=[{"role": "user", "content": "\ud800"}]), 400, "half of a surrogate pair", None),
    (body(temperature=-1), 400, "temperature: ", "temperature"),
    (body(temperature="warm"), 400, "temperature: ", "temperature"),
    (body(top_p=0), 400, "top_p: ", "top_p"),
    (body(max_tokens=0), 400, "max_tokens: ", "max_tokens"),
    (body(max_tokens=True), 400, "max_tokens: ", "max_tokens"),
    (body(n=5), 400, "5 completions of a prompt need as many rows; there are 4", None),
    (body(stop=""), 400, "stop", "stop"),
    (body(max_tokens=190), 400, "more than the 192 that fit", None),
    (body(messages=chat("apples " * 300)), 400, "more than the 192 that fit", None),
    (body(messages=chat("a" * 2**20)), 413, "larger than 1,048,576 bytes", None),
    (body(model="gpt-5"), 404, "there is no model 'gpt-5'; there are demo, demo:backbone", "model"),
    ({"model": "demo", "prompt": [9999]}, 400, "messages", "messages"),
]


@pytest.mark.parametrize(("content", "status", "message", "field"), WRONG, ids=[str(case[0])[:60] for case in WRONG])
def test_what_is_wrong_is_told_in_openais_error_object(running, content, status, message, field):
    response = post(running, content)
    error = response.json()["error"]
    assert response.status_code == status, error
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert field is None or error["param"] == field


@pytest.mark.parametrize("prompt", [[], [[]], "", [9999], [[1], []], [-1], ["a", 1], [True], [[1]] * 129])
def test_prompts_that_are_none(running, prompt):
    response = post(running, {"model": "demo", "prompt": prompt}, "/v1/completions")
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    if isinstance(prompt, list) and prompt not in ([9999], [-1]):
        assert message.startswith("prompt: is no text, no texts, no tokens and no lists of tokens")


def test_a_prompt_may_have_many_tokens(running):
    answer = running.client.completions.create(model="demo", prompt=[5] * 150, max_tokens=2)
    assert answer.usage.prompt_tokens == 150


def test_what_asks_for_nothing_is_taken(running):
    neutral = dict(frequency_penalty=0, presence_penalty=0.0, logit_bias={}, tools=[], n=1, metadata={}, logprobs=False)
    options = {"include_usage": None, "include_obfuscation": False}
    for more in (
        neutral | {"seed": None, "stop": None, "stream_options": options},
        {"response_format": {"type": "text"}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": None}], "name": None}
            ]
        },
    ):
        assert post(running, body(**more)).status_code == 200
    for more in ({"frequency_penalty": False}, {"frequency_penalty": 0.5}, {"logprobs": 0}):
        assert post(running, body(**more)).status_code == 400


def test_a_fault_of_the_server_is_told_counted_and_logged(running, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("a fault")

    monkeypatch.setattr(app, "usage_of", fail)
    before = metric(running, 'trm_requests_total{path="/v1/chat/completions",status="500"}')
    response = post(running, body())
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert metric(running, 'trm_requests_total{path="/v1/chat/completions",status="500"}') == before + 1
    assert "a fault" in caplog.text


def test_without_a_key_a_server_answers_to_the_names_of_its_own_machine_alone(running):
    """A page of the web can have its own name resolved to 127.0.0.1."""
    open_to_all = make_app(dataclasses.replace(running.served, key=None))

    async def ask(name: str) -> int:
        transport = httpx.ASGITransport(open_to_all)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{name}") as client:
            return (await client.get("/v1/models")).status_code

    names = ["localhost:8000", "127.0.0.1", "[::1]:8000", "evil.example", "127.0.0.1.evil.example:8000"]
    assert [asyncio.run(ask(name)) for name in names] == [200, 200, 200, 403, 403]


def test_openais_client_knows_the_errors(running):
    with pytest.raises(openai.AuthenticationError, match="wants its key"):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        running.client.models.retrieve("gpt-5")
    with pytest.raises(openai.BadRequestError) as error:
        running.client.chat.completions.create(**body(max_tokens=500))
    assert error.value.code == "context_length_exceeded"
    assert [model.id for model in running.client.models.list()] == ["demo", "demo:backbone"]
    assert running.client.models.retrieve("demo:backbone").id == "demo:backbone"


def test_a_full_queue_is_told_as_a_rate_limit(running, monkeypatch):
    monkeypatch.setattr(running.served.engine, "most_waiting", 0)
    busy = running.client.completions.create(model="demo", prompt=[1], max_tokens=180, n=4, temperature=2, stream=True)
    next(iter(busy))
    with pytest.raises(openai.RateLimitError) as error:
        running.client.chat.completions.create(**body())
    assert error.value.response.headers["retry-after"] == "1"
    busy.close()
    with pytest.raises(openai.BadRequestError, match="5 completions in one request are more than the 4"):
        running.client.completions.create(model="demo", prompt=[[1]] * 5)
    monkeypatch.undo()
    assert running.client.chat.completions.create(**body()).choices


def test_paths_that_need_no_key_and_those_that_do(running):
    for path, status in [("/health", 200), ("/metrics", 401), ("/v1/models", 401), ("/nowhere", 404)]:
        assert httpx.get(running.url + path).status_code == status
    assert httpx.get(f"{running.url}{CHAT}", headers=running.headers).status_code == 405
    assert post(running, body(), headers={"Authorization": "Basic secret"}).status_code == 401
    assert post(running, body(), headers={"Authorization": "Bearer s\u00e9cret".encode("latin-1")}).status_code == 401
    assert "application/json" in post(running, body(), headers={"Content-Type": "text/plain"}).text


def test_the_conversation_may_bring_its_own_system_message(running):
    tokenizer, client = running.served.tokenizer, running.client
    for role, content in (("system", "Be brief."), ("developer", [{"type": "text", "text": "Be brief."}])):
        messages = [
            {"role": role, "content": content},
            *chat("Hello"),
            {"role": "assistant", "content": "Hi"},
            *chat("a"),
        ]
        plain = [{"role": "system", "content": "Be brief."}, *messages[1:]]
        usage = client.chat.completions.create(**body(messages=messages)).usage
        assert usage.prompt_tokens == len(encode_chat(tokenizer, plain))
    assert len(encode_chat(tokenizer, chat("a"))) > len(encode_chat(tokenizer, [plain[0], *chat("a")]))


def test_what_an_answer_came_with_may_be_sent_back(running):
    answer = running.client.chat.completions.create(**body())
    messages = [*chat("a"), answer.choices[0].message.model_dump(), *chat("b")]
    assert running.client.chat.completions.create(**body(messages=messages)).choices
