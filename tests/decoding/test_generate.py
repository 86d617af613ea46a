"""Generation: rows do not disturb each other, the end token stays, the cache is written in place."""

import importlib

import jax
import numpy as np
import pytest

from tests.support.models import random_tokens, tiny_model
from trm_jax import generate
from trm_jax.decoding import shapes
from trm_jax.decoding import step as decode
from trm_jax.decoding.generate import GenerationError, decode_config, generate_each
from trm_jax.decoding.shapes import coarse_capacity, pad_prompts, padded_length
from trm_jax.decoding.step import DecodeConfig, DecodeState, Placement
from trm_jax.hardware import count_bytes
from trm_jax.model import for_decoding
from trm_jax.model.weights import cast

generating = importlib.import_module("trm_jax.decoding.generate")  # the module: the package has a function of its name

PROMPTS = [random_tokens(length, seed=length).tolist() for length in (2, 11, 5, 1)]


@pytest.mark.parametrize("kv_cache", ["last_pass", "per_pass"])
def test_a_batch_of_unequal_prompts_gives_each_row_what_it_gets_alone(model, kv_cache):
    """The original's left padding shifted positions and broke such batches."""
    together = generate(model, PROMPTS, 10, kv_cache=kv_cache, eos_token_ids=[])
    assert together == [generate(model, [prompt], 10, kv_cache=kv_cache, eos_token_ids=[])[0] for prompt in PROMPTS]


def test_what_stands_in_the_padding_does_not_matter(model):
    """A mask that lets padding through would show here, whatever the padding token."""
    config = DecodeConfig(2, 2, "per_pass", "trm", ())
    tokens, lengths = pad_prompts(PROMPTS)
    noisy = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, 7)
    states = [started(model, t, lengths, config, 24) for t in (tokens, noisy)]
    for _ in range(4):
        states = [decode.decode_step(model, state, config) for state in states]
    assert states[0].counts.tolist() == [5] * len(PROMPTS)
    assert states[0].tokens.tolist() == states[1].tokens.tolist()


def started(model, tokens, lengths, config, capacity, longest: int = 8) -> DecodeState:
    """A batch that has read its prompts."""
    empty = DecodeState.empty(model, config, len(lengths), capacity, longest)
    return decode.insert(
        empty, decode.prefill(model, tokens, lengths, config), placement(len(lengths), longest), config
    )


def placement(count: int, longest: int = 8) -> Placement:
    """Each prompt in the row of its number."""
    return Placement.of_prompts(count, longest)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_untrained_residual_gives_the_backbones_tokens(dtype):
    """The readout starts from the backbone's own logits, bit for bit, in either type."""
    model = cast(tiny_model("residual", trained=False), dtype)
    answers = [generate(model, PROMPTS, 12, head=head, eos_token_ids=[]) for head in ("trm", "backbone")]
    assert answers[0] == answers[1]


def test_a_row_ends_with_its_end_token_while_others_go_on(model):
    free = generate(model, PROMPTS, 10, eos_token_ids=[])
    end = free[0][3]
    stopped = generate(model, PROMPTS, 10, eos_token_ids=[end])
    for row, full in zip(stopped, free, strict=True):
        expected = full[: full.index(end) + 1] if end in full else full
        assert row == expected
    assert stopped[0][-1] == end


@pytest.mark.parametrize("kind", ["one step", "until done", "insert"])
def test_the_caches_are_taken_over_and_none_is_copied(model, kind):
    """Without donation, or with a copy in the loop, each token would cost the whole cache twice."""
    config = DecodeConfig(2, 2, "per_pass", "trm", ())
    tokens, lengths = pad_prompts(PROMPTS)
    state = started(model, tokens, lengths, config, 1024)
    cache_bytes = count_bytes((state.trm.keys, state.trm.values))
    if kind == "insert":
        program = decode.insert
        args = state, decode.prefill(model, tokens, lengths, config), placement(len(PROMPTS)), config
    elif kind == "until done":
        program, args = decode.decode_until, (model, state, np.int32(4), np.int32(99), config)
    else:
        program, args = decode.decode_step, (model, state, config)
    memory = program.lower(*args).compile().memory_analysis()
    assert memory.temp_size_in_bytes < cache_bytes / 2
    assert memory.alias_size_in_bytes >= cache_bytes
    program(*args)
    assert state.trm.keys[0].is_deleted()


def test_prompts_of_one_bucket_share_a_program(model):
    programs = (decode.prefill, decode.insert, decode.decode_until)
    generate(model, PROMPTS, 3)
    before = [program._cache_size() for program in programs]
    generate(model, [prompt + [1, 2] for prompt in PROMPTS], 3)
    assert [program._cache_size() for program in programs] == before


def test_fewer_supervision_steps_are_the_earlier_answer(model):
    from trm_jax import supervision_logits

    tokens = random_tokens((1, 7))
    expected = int(np.argmax(supervision_logits(model, tokens)[1, 0, -1]))
    assert generate(model, tokens.tolist(), 1, supervision_steps=2, eos_token_ids=[]) == [[expected]]


def test_what_cannot_be_generated():
    model = tiny_model("mathllm")
    assert generate(model, []) == []
    with pytest.raises(GenerationError, match="at least one token"):
        generate(model, [[1], []])
    with pytest.raises(GenerationError, match="max_new_tokens"):
        generate(model, [[1]], 0)
    with pytest.raises(GenerationError, match="vocabulary"):
        generate(model, [[1, 61]])


def test_bfloat16_weights_compute_in_bfloat16(model):
    """One float32 array in the loop would promote all that follows."""
    half = cast(model, "bfloat16")
    config = DecodeConfig(2, 2, "last_pass", "trm", ())
    tokens, lengths = pad_prompts(PROMPTS)
    state = jax.eval_shape(lambda m: decode.prefill(m, tokens, lengths, config), half)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((state.backbone.new, state.trm.new))} == {"bfloat16"}


@pytest.mark.parametrize("head", ["trm", "backbone"])
def test_prompts_that_wait_for_a_free_row_get_what_they_get_alone(model, head):
    """Rows of unequal length, some ended by a token and some by their limit, replaced while others go on."""
    prompts = [random_tokens(3 + 5 * i % 17, seed=i).tolist() for i in range(11)]
    limits = [1 + 4 * i % 9 for i in range(11)]
    free = generate(model, prompts, 9, head=head, eos_token_ids=[])
    end = free[2][5]
    config = decode_config(model, eos_token_ids=[end], head=head)
    expected = {}
    for index, (answer, limit) in enumerate(zip(free, limits, strict=True)):
        cut = answer[: answer.index(end) + 1] if end in answer else answer
        expected[index] = cut[:limit]
    for batch_size in (1, 3, 11):
        assert by_prompt(generate_each(model, prompts, limits, config, batch_size)) == expected
    backwards = by_prompt(generate_each(model, prompts[::-1], limits[::-1], config, 3))
    assert {10 - index: answer for index, answer in backwards.items()} == expected


def test_a_completion_may_end_where_it_is_whole(model):
    """Its row goes to the next prompt; what the others get stays the same."""
    prompts = [random_tokens(3 + i, seed=i).tolist() for i in range(5)]
    config = decode_config(model, eos_token_ids=[])
    expected = by_prompt(generate_each(model, prompts, 80, config))
    asked = []

    def is_whole(number, tokens):
        asked.append((number, len(tokens)))
        return number % 2 == 1

    found = by_prompt(generate_each(model, prompts, 80, config, 2, is_whole=is_whole))
    assert sorted(found) == list(range(5))
    for number, tokens in found.items():
        assert tokens == expected[number][: len(tokens)]
        assert len(tokens) <= 33 if number % 2 else len(tokens) == 80
    assert all(length < 80 for _, length in asked)
    several = generate_each(model, prompts, 80, config, 4, samples=2, is_whole=is_whole)
    lengths = sorted((completion.prompt, len(completion.tokens) < 80) for completion in several)
    assert lengths == [(number, number % 2 == 1) for number in range(5) for _ in range(2)]


def by_prompt(completions) -> dict[int, list[int]]:
    return {completion.prompt: completion.tokens for completion in completions}


def test_rows_get_more_room_as_they_grow(model, monkeypatch):
    """And less when the long ones have gone; a token written beyond the end, or a cache cut short, would show."""
    prompts = [random_tokens(length, seed=length).tolist() for length in (120, 5, 90, 7, 180, 3, 4, 9)]
    config = decode_config(model, eos_token_ids=[])
    limits = [30, 9, 60, 4, 25, 40, 3, 30]
    together = by_prompt(generate_each(model, prompts, limits, config, 2))
    monkeypatch.setattr(shapes, "FIRST_CAPACITY", 512)  # room for all from the start
    whole = generate(model, prompts, 60, eos_token_ids=[])
    assert together == {index: whole[index][:limit] for index, limit in enumerate(limits)}


def test_the_room_of_a_row():
    lengths = [1, 128, 129, 192, 193, 256, 257, 385]
    assert [coarse_capacity(length) for length in lengths] == [128, 128, 192, 192, 256, 256, 384, 512]
    assert [padded_length(length) for length in (1, 64, 65, 100, 129, 250)] == [64, 64, 128, 128, 192, 256]


@pytest.mark.parametrize(("dtype", "transposed"), [("float32", True), ("bfloat16", False)])
def test_kernels_lie_as_a_cpu_reads_them_fastest(dtype, transposed):
    model = cast(tiny_model("residual"), dtype)
    stored = model.backbone.layers.mlp.gate.kernel[...]
    laid_out = for_decoding(model, platform="cpu").backbone.layers[0].mlp.gate
    assert laid_out.transposed == transposed
    assert (laid_out.kernel[...].T if transposed else laid_out.kernel[...]).tolist() == stored[0].tolist()


def test_a_model_that_is_given_up_for_decoding_is_held_once():
    """Each stacked array goes as soon as it is unstacked; without the option the model stays as it was."""
    model = tiny_model("residual")
    expected = generate(model, PROMPTS, 5, eos_token_ids=[])
    given = jax.tree.map(jax.numpy.copy, model)
    layers = jax.tree.leaves(given.backbone.layers)
    ready = for_decoding(given, donate=True)
    assert all(array.is_deleted() for array in layers)
    assert not any(array.is_deleted() for array in jax.tree.leaves(ready))
    assert generate(ready, PROMPTS, 5, eos_token_ids=[]) == expected
    kept = for_decoding(model)
    assert not any(array.is_deleted() for array in jax.tree.leaves(model))
    assert generate(kept, PROMPTS, 5, eos_token_ids=[]) == expected
