"""Matrix products counted, and no more of them in a training batch than the contract asks for."""

import jax
import jax.numpy as jnp
import pytest

from tests.support.models import PRESETS
from tests.support.real_sizes import ANSWER, LENGTH, ROWS, train_batch, trm_config
from trm_jax.benchmark.sizes import SIZES
from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.hardware.flops import count_flops


def test_products_in_loops_branches_and_gradients_are_counted():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 4))
    loop = lambda a, b: jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ b), None), a, length=5)[0].sum()  # noqa: E731
    once = 2 * 3 * 4 * 4
    assert count_flops(loop, a, b) == 5 * once
    assert count_flops(jax.jit(loop), a, b) == 5 * once
    assert count_flops(jax.grad(loop, argnums=(0, 1)), a, b) == 15 * once
    branch = lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b)  # noqa: E731
    assert count_flops(branch, a, b) == 2 * once
    with pytest.raises(ValueError, match="run time"):
        count_flops(lambda a, b: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ b, a), a, b)


def floor(qwen: QwenConfig, trm: TRMConfig) -> float:
    """What the contract cannot do without: causal attention counted half, two products backward for each forward."""
    tokens = ROWS * LENGTH
    kv_width = qwen.num_kv_heads * qwen.head_size
    attention = 2 * 2 * LENGTH / 2 * qwen.width
    layer = 2 * (2 * qwen.width**2 + 2 * qwen.width * kv_width + 3 * qwen.width * qwen.mlp_width) + attention
    call = 2 * (4 + 3 * 4) * qwen.width**2 + attention
    forward_passes = trm.recursions - 1 + 3  # the last one forward and twice backward
    logits = 2 * ROWS * ANSWER * qwen.width * qwen.vocab_size
    of_a_step = tokens * forward_passes * trm.calls * call + logits * (2 if trm.frozen_head else 3)
    return tokens * qwen.num_layers * layer + trm.supervision_steps * of_a_step


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", ["qwen2.5-0.5b", "qwen2.5-math-1.5b"])
def test_a_batch_costs_at_most_a_tenth_more_than_the_floor(size, preset):
    """Recomputation, a gradient of a frozen head, logits of prompts, a backbone run twice: each would show."""
    ratio = count_flops(*train_batch(size, preset)) / floor(SIZES[size], trm_config(preset))
    assert 0.99 < ratio <= 1.10, ratio
