"""The engine: answers that are those of `generate`, whoever else is served, and no request that waits for ever."""

import dataclasses
import threading
import time

import pytest

from tests.support.models import random_tokens, tiny_model
from trm_jax.decoding import GenerationError, Request, Sampling, decode_config, decode_until, generate
from trm_jax.model import for_decoding
from trm_jax.serving import Engine, EngineError

PROMPTS = [random_tokens(length, seed=length).tolist() for length in (4, 9, 30, 6, 17, 3, 11)]
LIMIT = 40


@pytest.fixture(scope="module")
def model():
    return for_decoding(tiny_model("residual"))


@pytest.fixture(scope="module")
def config(model):
    return dataclasses.replace(decode_config(model), draws=True)


@pytest.fixture(scope="module")
def engine(model, config):
    with Engine(model, config, capacity=80, rows=3) as engine:
        yield engine


def tokens_of(stream) -> list[list[int]]:
    """Of each sample."""
    found = [[] for _ in range(stream.request.samples)]
    for piece in stream:
        found[piece.sample] += piece.tokens
    return found


def test_answers_are_those_of_generate(model, engine):
    """More requests than rows, which come at different times from different threads."""
    found = {}

    def ask(number):
        time.sleep(0.05 * number)
        found[number] = tokens_of(engine.submit(Request(PROMPTS[number], LIMIT)))[0]

    threads = [threading.Thread(target=ask, args=[number]) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [found[number] for number in range(len(PROMPTS))] == generate(model, PROMPTS, LIMIT)


def test_each_row_is_drawn_in_its_own_way_and_none_compiles_a_program(model, engine):
    samplings = [Sampling(), Sampling(0.7, 0.9, 1), Sampling(1.5, 1.0, 2), Sampling(0.3, 0.5, 3)]
    streams = [engine.submit(Request(PROMPTS[0], LIMIT, sampling)) for sampling in samplings]
    found = [tokens_of(stream)[0] for stream in streams]
    compiled = decode_until._cache_size()
    assert tokens_of(engine.submit(Request(PROMPTS[0], LIMIT, Sampling(1.1, 0.8, 9))))[0]
    assert decode_until._cache_size() == compiled
    for sampling, tokens in zip(samplings, found, strict=True):
        settings = dict(temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)
        assert generate(model, PROMPTS[:1], LIMIT, **settings) == [tokens]
    assert len({tuple(tokens) for tokens in found}) == len(found)


def test_samples_of_a_request(engine):
    stream = engine.submit(Request(PROMPTS[1], LIMIT, Sampling(1.5), samples=3))
    assert len({tuple(tokens) for tokens in tokens_of(stream)}) == 3


def test_an_answer_comes_in_pieces_and_says_how_it_ends(model, engine):
    answers = [list(engine.submit(Request(prompt, LIMIT))) for prompt in PROMPTS]
    assert max(map(len, answers)) > 1
    for pieces in answers:
        assert [piece.end for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        last = pieces[-1].tokens[-1]
        assert pieces[-1].end == ("stop" if last in model.backbone.config.end_tokens else "length")


def test_a_request_that_is_given_up_frees_its_rows(engine):
    streams = [engine.submit(Request(PROMPTS[0], 70, Sampling(2.0, seed=seed))) for seed in range(9)]
    for stream in streams:
        stream.cancel()
    assert tokens_of(engine.submit(Request(PROMPTS[3], 4)))[0]
    deadline = time.monotonic() + 60
    while len(engine._rows.free) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_cannot_be_taken_is_an_error_of_that_request_alone(model, config, engine):
    with pytest.raises(EngineError, match="a prompt of 30 tokens and 60 new ones are more than the 80 of a row"):
        engine.submit(Request(PROMPTS[2], 60))
    with pytest.raises(GenerationError, match="at least one token"):
        engine.submit(Request([], 4))
    with pytest.raises(GenerationError, match="outside the vocabulary"):
        engine.submit(Request([9999], 4))
    with pytest.raises(EngineError, match="4 completions of a prompt need as many rows; there are 3"):
        engine.submit(Request(PROMPTS[0], 4, samples=4))
    assert tokens_of(engine.submit(Request(PROMPTS[0], 4)))[0]
    full = Engine(model, config, capacity=80, rows=1, most_waiting=0)
    with pytest.raises(EngineError, match="0 requests are waiting already"):
        full.submit(Request(PROMPTS[0], 4))
    full.close()
    with pytest.raises(EngineError, match="closed"):
        full.submit(Request(PROMPTS[0], 4))


def test_closing_finishes_what_was_taken(model, config):
    engine = Engine(model, config, capacity=80, rows=1)
    streams = [engine.submit(Request(prompt, LIMIT)) for prompt in PROMPTS[:3]]
    engine.close()
    assert [tokens_of(stream)[0] for stream in streams] == generate(model, PROMPTS[:3], LIMIT)


def test_a_fault_ends_all_requests_with_a_message(model, config, monkeypatch, caplog):
    engine = Engine(model, config, capacity=80, rows=1)

    def fail(*args):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine._rows, "advance", fail)
    streams = [engine.submit(Request(prompt, 4)) for prompt in PROMPTS[:2]]
    for stream in streams:
        with pytest.raises(EngineError, match="the engine has failed: the device is gone"):
            tokens_of(stream)
    with pytest.raises(EngineError, match="the device is gone"):
        engine.submit(Request(PROMPTS[0], 4))
    engine.close()
    assert "the device is gone" in caplog.text  # with its traceback
