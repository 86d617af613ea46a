"""The engine: answers that are those of `generate`, whoever else is served, and no request that waits for ever."""

import dataclasses
import importlib
import threading
import time

import pytest

from tests.support.models import random_tokens, tiny_model
from trm_jax.decoding import (
    GenerationError,
    NoRoomError,
    Request,
    Room,
    Rows,
    Sampling,
    decode_config,
    decode_until,
    generate,
)
from trm_jax.hardware import compilations
from trm_jax.model import for_decoding
from trm_jax.serving import EndedError, Engine, EngineError, FullError

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
    with Engine(model, {"trm": config}, capacity=80, rows=3) as engine:
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
        found[number] = tokens_of(engine.submit("trm", Request(PROMPTS[number], LIMIT)))[0]

    threads = [threading.Thread(target=ask, args=[number]) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [found[number] for number in range(len(PROMPTS))] == generate(model, PROMPTS, LIMIT)


def test_each_row_is_drawn_in_its_own_way_and_none_compiles_a_program(model, engine):
    samplings = [Sampling(), Sampling(0.7, 0.9, 1), Sampling(1.5, 1.0, 2), Sampling(0.3, 0.5, 3)]
    streams = [engine.submit("trm", Request(PROMPTS[0], LIMIT, sampling)) for sampling in samplings]
    found = [tokens_of(stream)[0] for stream in streams]
    compiled = decode_until._cache_size()
    assert tokens_of(engine.submit("trm", Request(PROMPTS[0], LIMIT, Sampling(1.1, 0.8, 9))))[0]
    assert decode_until._cache_size() == compiled
    for sampling, tokens in zip(samplings, found, strict=True):
        settings = dict(temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)
        assert generate(model, PROMPTS[:1], LIMIT, **settings) == [tokens]
    assert len({tuple(tokens) for tokens in found}) == len(found)


def test_samples_of_a_request(engine):
    stream = engine.submit("trm", Request(PROMPTS[1], LIMIT, Sampling(1.5), samples=3))
    assert len({tuple(tokens) for tokens in tokens_of(stream)}) == 3


def test_an_answer_comes_in_pieces_and_says_how_it_ends(model, engine):
    answers = [list(engine.submit("trm", Request(prompt, LIMIT))) for prompt in PROMPTS]
    assert max(map(len, answers)) > 1
    for pieces in answers:
        assert [piece.end for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        last = pieces[-1].tokens[-1]
        assert pieces[-1].end == ("stop" if last in model.backbone.config.end_tokens else "length")


def test_a_request_that_is_given_up_frees_its_rows(engine):
    streams = [engine.submit("trm", Request(PROMPTS[0], 70, Sampling(2.0, seed=seed))) for seed in range(9)]
    for stream in streams:
        stream.cancel()
    assert tokens_of(engine.submit("trm", Request(PROMPTS[3], 4)))[0]
    deadline = time.monotonic() + 60
    while engine.busy["trm"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_cannot_be_taken_is_an_error_of_that_request_alone(model, config, engine):
    with pytest.raises(EngineError, match="a prompt of 30 tokens and 60 new ones are more than the 80 of a row"):
        engine.submit("trm", Request(PROMPTS[2], 60))
    with pytest.raises(GenerationError, match="at least one token"):
        engine.submit("trm", Request([], 4))
    with pytest.raises(GenerationError, match="outside the vocabulary"):
        engine.submit("trm", Request([9999], 4))
    with pytest.raises(EngineError, match="4 completions of a prompt need as many rows; there are 3"):
        engine.submit("trm", Request(PROMPTS[0], 4, samples=4))
    assert tokens_of(engine.submit("trm", Request(PROMPTS[0], 4)))[0]
    full = Engine(model, {"trm": config}, capacity=80, rows=1, most_waiting=0)
    first = full.submit("trm", Request(PROMPTS[0], LIMIT))  # there is a free row
    while not full.busy["trm"]:
        time.sleep(0.001)
    with pytest.raises(FullError, match="1 completions would wait for a row; 0 may"):
        full.submit("trm", Request(PROMPTS[0], 4))
    assert tokens_of(first)[0]
    full.close()
    with pytest.raises(EngineError, match="closed"):
        full.submit("trm", Request(PROMPTS[0], 4))


def test_as_many_rows_as_are_asked_for_or_none(model, config, monkeypatch):
    """Also more than the 64 that there are at most where nobody asks."""
    with Engine(model, {"trm": config}, capacity=80, rows=70) as engine:
        assert engine.rows == 70
    few = sum(Room(model, config, capacity=80, prompt_length=128, together=1).needed(66).values())
    monkeypatch.setattr(importlib.import_module("trm_jax.decoding.room"), "free_memory", lambda: few)
    with pytest.raises(NoRoomError, match=r"70 rows of 80 tokens need .* --rows 66"):
        Engine(model, {"trm": config}, capacity=80, rows=70)


def test_closing_finishes_what_was_taken(model, config):
    engine = Engine(model, {"trm": config}, capacity=80, rows=1)
    streams = [engine.submit("trm", Request(prompt, LIMIT)) for prompt in PROMPTS[:3]]
    engine.close()
    assert [tokens_of(stream)[0] for stream in streams] == generate(model, PROMPTS[:3], LIMIT)


def test_closing_waits_no_longer_than_it_may(model, config, monkeypatch):
    """For an engine that compiles a program, for instance."""
    engine, goes_on, advance = Engine(model, {"trm": config}, capacity=80, rows=1), threading.Event(), Rows.advance
    monkeypatch.setattr(Rows, "advance", lambda *arguments: goes_on.wait(60) and advance(*arguments))
    stream = engine.submit("trm", Request(PROMPTS[0], 4))
    assert not engine.close(0.1)
    goes_on.set()
    assert engine.close(60)
    assert tokens_of(stream) == generate(model, PROMPTS[:1], 4)


def test_a_fault_ends_all_requests_with_a_message(model, config, monkeypatch, caplog):
    engine = Engine(model, {"trm": config}, capacity=80, rows=1)

    def fail(*args, **settings):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Rows, "advance", fail)
    streams = [engine.submit("trm", Request(prompt, 4)) for prompt in PROMPTS[:2]]
    for stream in streams:
        with pytest.raises(EngineError, match="the engine has failed: the device is gone"):
            tokens_of(stream)
    with pytest.raises(EngineError, match="the device is gone"):
        engine.submit("trm", Request(PROMPTS[0], 4))
    engine.close()
    assert "the device is gone" in caplog.text  # with its traceback


def test_a_warm_engine_compiles_nothing_more(model, config):
    """Whatever the lengths of prompts, capacities, temperatures, samples, and whoever is stopped in between."""
    backbone = dataclasses.replace(decode_config(model, head="backbone"), draws=True)
    seconds = compilations()
    with Engine(model, {"trm": config, "backbone": backbone}, capacity=208, rows=3, warm=True) as engine:
        compiled = len(seconds)
        assert compiled
        for length, limit in ((3, 4), (64, 9), (65, 40), (127, 5), (128, 64), (150, 58), (195, 13)):
            for name in ("trm", "backbone"):
                prompt = random_tokens(length, seed=length).tolist()
                streams = [engine.submit(name, Request(prompt, limit, Sampling(0.8), samples=2)) for _ in range(2)]
                streams[0].cancel_sample(1)
                assert len(tokens_of(streams[1])[1]) <= limit
        assert len(seconds) == compiled


def test_a_sample_that_is_given_up_leaves_the_others(model, engine):
    stream = engine.submit("trm", Request(PROMPTS[0], 70, Sampling(2.0, seed=5), samples=2))
    stream.cancel_sample(0)
    pieces = {sample: [] for sample in (0, 1)}
    for piece in stream:
        pieces[piece.sample] += piece.tokens
        if piece.sample == 1 and piece.end:
            break
    alone = generate(model, PROMPTS[:1], 70, temperature=2.0, seed=5)
    assert len(pieces[0]) < len(alone[0])
    assert pieces[1]


def test_those_that_wait_are_refused_and_those_that_have_rows_go_on(model, config):
    engine = Engine(model, {"trm": config}, capacity=80, rows=1)
    first = engine.submit("trm", Request(PROMPTS[0], LIMIT))
    while not engine.busy["trm"]:
        time.sleep(0.001)
    second = engine.submit("trm", Request(PROMPTS[1], LIMIT))
    engine.refuse_waiting()
    with pytest.raises(EndedError, match="closed"):
        tokens_of(second)
    assert tokens_of(first) == generate(model, PROMPTS[:1], LIMIT)
    engine.close()


def test_an_engine_that_is_abandoned_ends_what_has_rows_too(model, config):
    engine = Engine(model, {"trm": config}, capacity=80, rows=1)
    streams = [engine.submit("trm", Request(prompt, 70, Sampling(2.0))) for prompt in PROMPTS[:2]]
    while not engine.busy["trm"]:
        time.sleep(0.001)
    engine.abandon()
    for stream in streams:
        with pytest.raises(EndedError, match="closed"):
            tokens_of(stream)
    engine.close(60)
    assert engine.busy["trm"] == 0
