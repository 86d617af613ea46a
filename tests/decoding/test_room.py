"""How many rows fit: counted as they are allocated, chosen by itself, and refused with what would fit instead."""

import importlib

import jax
import pytest

from tests.support.models import tiny_model
from tests.support.real_sizes import abstract_model
from trm_jax.decoding import NoRoomError, Room, decode_config, generate, generate_each
from trm_jax.hardware import CARDS, count_bytes, decoding_memory

room = importlib.import_module("trm_jax.decoding.room")

PROMPTS, LIMIT = [[1, 2, 3]] * 40, 29


def free(monkeypatch, size: int) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: size)


@pytest.fixture(scope="module")
def model():
    return tiny_model("residual")


@pytest.mark.parametrize("kv_cache", ["last_pass", "per_pass"])
@pytest.mark.parametrize("head", ["trm", "backbone"])
def test_caches_are_counted_as_they_are_allocated(model, kv_cache, head):
    config = decode_config(model, kv_cache=kv_cache, head=head)
    caches = jax.eval_shape(lambda: config.empty_caches(model, 5, 48))
    arrays = [cache and (cache.keys, cache.values) for cache in caches]
    shapes = dict(rows=5, capacity=48, prompt_rows=1, prompt_length=16)
    counted = decoding_memory(
        model.backbone.config, model.trm.config, model.backbone.embedding.dtype, config.kept_passes, **shapes
    )
    assert counted["caches"] == count_bytes(arrays)
    assert counted["prompts"] * 15 == counted["caches"]


def test_as_many_rows_as_fit_are_taken_where_none_are_asked_for(model, monkeypatch, caplog):
    config = decode_config(model, eos_token_ids=[])
    here = Room(model, config, capacity=32, prompt_length=64)
    free(monkeypatch, sum(here.needed(12).values()))
    assert here.choose_rows(None, most=40, samples=1) == 12
    assert here.choose_rows(None, most=7, samples=1) == 7
    assert here.choose_rows(None, most=40, samples=5) == 10
    assert here.choose_rows(12, most=40, samples=1) == 12
    free(monkeypatch, 2**40)
    assert here.choose_rows(None, most=1000, samples=1) == room.MOST_ROWS
    with caplog.at_level("INFO"):
        generate(model, PROMPTS[:3], 2)
    assert "3 rows of 16 tokens: " in caplog.text


def test_rows_that_do_not_fit_are_refused_with_what_would(model, monkeypatch):
    """Each way that is named fits, with its bytes."""
    config = decode_config(model, kv_cache="per_pass", eos_token_ids=[])
    here = Room(model, config, capacity=32, prompt_length=64)
    free(monkeypatch, sum(here.needed(12).values()))
    with pytest.raises(NoRoomError, match=r"--batch-size 12, .* GiB.*--kv-cache last_pass"):
        list(generate_each(model, PROMPTS, LIMIT, config, batch_size=13))
    free(monkeypatch, sum(here.needed(1).values()) - 1)
    with pytest.raises(NoRoomError, match="1 rows") as refused:
        generate(model, PROMPTS, LIMIT, kv_cache="per_pass")
    assert "--batch-size" not in str(refused.value)


@pytest.mark.parametrize(
    ("size", "card", "least"), [("qwen2.5-math-1.5b", "rtx4090", 8), ("qwen2.5-math-7b", "h100", 8)]
)
def test_a_card_evaluates_at_the_end_of_training_with_the_defaults(size, card, least, monkeypatch):
    """GSM8K's questions, 512 new tokens, the exact cache, and the 75 % of the card that JAX takes; nothing but the model."""
    model = abstract_model(size, "residual")
    free(monkeypatch, CARDS[card].memory * 3 // 4 - count_bytes(model))
    here = Room(model, decode_config(model), capacity=688, prompt_length=192)
    assert here.choose_rows(None, most=256, samples=1) >= least
