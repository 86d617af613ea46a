"""How prompts are read into the rows of a batch: in few shapes, because each costs the compilation of a program."""

import collections

import pytest

from tests.support.models import random_tokens
from trm_jax.decoding import rows, shapes
from trm_jax.decoding import step as decode
from trm_jax.decoding.generate import decode_config, generate_each


def completions(model, prompts, limits) -> dict[int, list[int]]:
    """The tokens of each prompt, from a batch of eight rows."""
    found = generate_each(model, prompts, limits, decode_config(model, eos_token_ids=[]), 8)
    return {completion.prompt: completion.tokens for completion in found}


def test_prompts_are_read_in_few_shapes(model, monkeypatch):
    """Each shape is a program to compile: on a GPU an evaluation once waited for dozens of them, one after another."""
    shapes_read = collections.Counter()

    def prefill(model, tokens, *others):
        shapes_read[tokens.shape] += 1
        return decode.prefill(model, tokens, *others)

    monkeypatch.setattr(rows, "prefill", prefill)
    prompts = [random_tokens(length, seed=length).tolist() for length in range(1, 190, 9)]
    limits = [1 + number % 5 for number in range(len(prompts))]
    together = completions(model, prompts, limits)
    assert set(shapes_read) <= {(number, length) for number in (1, 8) for length in (64, 128, 192)}
    assert sum(number * count for (number, _), count in shapes_read.items()) < 2 * len(prompts)  # few are read in vain
    monkeypatch.setattr(rows, "_reads_what_is_filled", lambda model, capacity: True)
    resized = []
    monkeypatch.setattr(decode.DecodeState, "resize", lambda state, capacity: resized.append(capacity))
    assert completions(model, prompts, limits) == together
    assert not resized  # rows have one capacity where that costs no time


@pytest.mark.parametrize(
    ("rows", "samples", "prompts", "placed"),
    [
        (64, 1, {8}, {8}),
        (16, 1, {2, 8}, {2, 8}),
        (8, 1, {1, 8}, {1, 8}),
        (3, 1, {1, 3}, {1, 3}),
        (1, 1, {1}, {1}),
        (64, 8, {1, 8}, {8}),
        (64, 64, {1}, {8}),
    ],
)
def test_how_many_prompts_are_read_together(rows, samples, prompts, placed):
    """And how many rows take one together: the samples of a prompt are rows of their own."""
    reading = shapes.Reading.of_batch(rows, samples)
    assert (reading.prompts.each, reading.rows.each) == (prompts, placed)
    assert shapes.Reading.of_batch(rows, samples, parts=16).prompts.each == {16}
    for numbers in (reading.prompts, reading.rows):
        for count in range(1, 30):
            parts = numbers.parts(count)
            assert sum(parts) == count
            assert {numbers.padded(part) for part in parts} <= numbers.each
            assert sum(map(numbers.padded, parts)) < count + numbers.most / 2 + numbers.least
            assert len(parts) <= count // numbers.most + numbers.most / 2
