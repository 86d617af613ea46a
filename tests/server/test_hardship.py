"""What nobody means to send, many requests on end, and an engine that fails: no fault, no hang, no growth."""

import asyncio
import concurrent.futures
import json
import os
import random

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from trm_jax.decoding import Rows
from trm_jax.server import Served, make_app
from trm_jax.serving import Engine, head_config

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/demo", "/metrics", "/health", "/v1", "/"]
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([10**30, -(10**30), 2**63, 1e308, -0.0, 0.5, "", "a", "\x00", "苹果🍎", "<|im_end|>", "\ud800"]),
    st.text(max_size=8),
    st.floats(allow_nan=True),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": st.text(max_size=12)}
    )
    | values,
    max_size=3,
)
NAMES = """temperature top_p n seed stop stream stream_options user max_tokens max_completion_tokens logprobs echo suffix
    tools best_of logit_bias response_format frequency_penalty presence_penalty metadata nonsense""".split()
likely = {
    "temperature": st.sampled_from([0, 0.7, 2]),
    "top_p": st.sampled_from([0.5, 1]),
    "n": st.integers(1, 4),
    "seed": st.integers(-(2**70), 2**70),
    "stop": st.text(min_size=1, max_size=3) | st.lists(st.text(min_size=1, max_size=2), max_size=3),
    "stream": st.booleans(),
    "max_tokens": st.integers(1, 6),
}
prompts = st.text(max_size=20) | st.lists(st.integers(-2, 600), max_size=6) | values


@st.composite
def bodies(draw) -> bytes:
    """Half of them near to what is right."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=40))
    fields = {"model": draw(st.sampled_from(["demo", "demo", "demo:backbone", "gpt"]) | values)}
    fields["max_tokens"] = 3
    fields |= draw(st.sampled_from([{"messages": draw(messages)}, {"prompt": draw(prompts)}]))
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        fields[name] = draw(likely[name] if name in likely and draw(st.booleans()) else values)
    text = json.dumps(fields)
    return (text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 19)) == 0 else text).encode()


plain = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(str.strip)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(["application/json", "application/json; charset=utf-8", "text/plain", ""]),
        "Authorization": st.sampled_from(["Bearer secret", "bearer  secret", "Bearer", "Basic c2VjcmV0"]) | plain,
        "Content-Encoding": st.sampled_from(["gzip", "identity"]),
        "Accept": plain,
        "X-Forwarded-For": plain,
    },
)


@pytest.fixture(scope="module")
def connection(running):
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client


@settings(max_examples=6000 if THOROUGH else 2000, suppress_health_check=list(HealthCheck), database=None)
@given(
    st.sampled_from(PATHS[:2] * 4 + PATHS), st.sampled_from(["POST"] * 9 + ["GET", "PUT", "DELETE"]), bodies(), headers
)
def test_whatever_is_sent_is_answered_and_never_by_a_fault(running, connection, path, method, content, sent):
    right = {"Content-Type": "application/json"} | running.headers
    response = connection.request(method, path, content=content, headers=right | sent)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["error"]["message"]


def memory(running) -> float:
    """Bytes that the process holds."""
    text = httpx.get(f"{running.url}/metrics", headers=running.headers).text
    return float(
        next(line for line in text.splitlines() if line.startswith("process_resident_memory_bytes")).split()[1]
    )


def test_memory_stays_where_it_is_while_requests_come_and_go(running):
    """`make test-all`: 5,000 of them. Of ten clients one goes away before its answer has ended."""
    count = 5000 if THOROUGH else 400
    chance = random.Random(0)
    wishes = [
        dict(
            model=chance.choice(["demo", "demo:backbone"]),
            prompt=[chance.randrange(400) for _ in range(chance.randrange(1, 120))],
            max_tokens=chance.randrange(1, 60),
            temperature=chance.choice([0, 1.0]),
            n=chance.randrange(1, 4),
            stream=chance.random() < 0.5,
        )
        for _ in range(count)
    ]

    def ask(client: httpx.Client, wish: dict, impatient: bool) -> int:
        try:
            with client.stream("POST", "/v1/completions", json=wish, headers=running.headers) as response:
                if not impatient:
                    response.read()
                return response.status_code
        except httpx.ReadTimeout:
            return 0

    def ask_all(wishes: list[dict]) -> list[int]:
        with (
            httpx.Client(base_url=running.url, timeout=60) as client,
            concurrent.futures.ThreadPoolExecutor(12) as pool,
        ):
            return list(pool.map(lambda pair: ask(client, pair[1], pair[0] % 10 == 0), enumerate(wishes)))

    assert set(ask_all(wishes[: count // 4])) == {200}
    before = memory(running)
    assert set(ask_all(wishes[count // 4 :])) == {200}
    assert memory(running) - before < 40 * 2**20
    assert running.served.engine.waiting == 0


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_fails_ends_every_request_and_is_no_longer_well(model_and_tokenizer, monkeypatch, stream):
    model, tokenizer = model_and_tokenizer
    with Engine(model, {"trm": head_config(model, "trm")}, 192, rows=1) as engine:
        transport = httpx.ASGITransport(make_app(Served(engine, tokenizer, {"demo": "trm"}, 8)))
        wish = {"model": "demo", "prompt": [1, 2], "stream": stream}

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                well = await client.get("/health")
                monkeypatch.setattr(Rows, "advance", fail)
                asked = await asyncio.gather(*[client.post("/v1/completions", json=wish) for _ in range(3)])
                return [well, *asked, await client.post("/v1/completions", json=wish), await client.get("/health")]

        def fail(*args, **settings):
            raise RuntimeError("the device is gone")

        well, *asked, later, ill = asyncio.run(ask())
    assert (well.status_code, ill.status_code, later.status_code) == (200, 503, 503)
    assert all("the device is gone" in response.text for response in (*asked, later))
    assert {response.status_code for response in asked} == {200 if stream else 503}
    assert all('"type": "server_error"' in response.text.replace('":"', '": "') for response in asked)
