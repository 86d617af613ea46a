"""Nothing that is traced outlives its trace: a leaked tracer is an error far from its cause, or a retrace at every call."""

import gc

import jax
import numpy as np
import pytest

from tests.support.models import PRESETS, new_step, one_shape, tiny_model, training
from trm_jax.decoding import DecodeState, decode_config, decode_step, prefill
from trm_jax.model import supervision_logits


@pytest.fixture
def small_heap():
    """The check looks through all objects; those of the tests before this one are set aside."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("small_heap")
@pytest.mark.parametrize("preset", PRESETS)
def test_no_tracer_leaks(preset):
    model = tiny_model(preset)
    config = decode_config(model, eos_token_ids=[])
    tokens, lengths = np.ones((2, 8), np.int32), np.array([8, 3], np.int32)
    state, (_, train_batch) = training(model)[0], new_step()
    with jax.checking_leaks():
        jax.eval_shape(supervision_logits, model, tokens)
        jax.eval_shape(train_batch, state, model.backbone, one_shape()[0])
        jax.eval_shape(lambda model: prefill(model, tokens, lengths, config), model)
        empty = jax.eval_shape(lambda model: DecodeState.empty(model, config, 2, 16, 8), model)
        jax.eval_shape(lambda model, state: decode_step(model, state, config), model, empty)
