"""The whole computation against the PyTorch oracle, in float32: forward, gradients, training, decoding."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is in PyTorch")

from tests.reference.training import ReferenceTrainer
from tests.support.models import PRESETS, max_error, random_tokens, tiny_model, tiny_qwen_config
from tests.support.oracle import examples, reference
from trm_jax import generate, supervision_logits
from trm_jax.config import ConfigError, TrainConfig, TRMConfig
from trm_jax.data.loader import Loader
from trm_jax.hardware import count_bytes, count_weights
from trm_jax.model import abstract_qwen, abstract_trm, named_weights
from trm_jax.training.optimizer import make_optimizer
from trm_jax.training.step import make_train_batch, new_state, supervision_loss

PROMPTS = [list(map(int, random_tokens(length, seed=length))) for length in (3, 9, 6)]


def test_logits_and_states_after_every_supervision_step(model):
    """Any slip in norm, rotation, grouping, loop order or readout moves these."""
    tokens = random_tokens((2, 11))
    logits = supervision_logits(model, tokens)
    hidden, _ = model.backbone(tokens)
    context = model.trm.context(hidden)
    rotation = model.trm.rotation(np.arange(11)[None])
    y, z = model.trm.start(context)
    for step in range(model.trm.config.supervision_steps):
        y, z = model.trm.supervision_step(context, y, z, rotation)
        for row in range(2):
            expected = reference(model).all_steps(tokens[row])[step]
            for found, wanted in zip((logits[step, row], y[row], z[row]), expected, strict=True):
                assert max_error(found, wanted.numpy()) < 1e-4


def rows_of(loader: Loader, batch) -> list[list[tuple]]:
    """The unpadded rows of each micro-batch, found again by their tokens."""
    known = {tuple(e.tokens.tolist()): (e.tokens.tolist(), e.prompt_length) for e in loader.examples}
    return [
        [next(row for key, row in known.items() if tuple(tokens[: len(key)].tolist()) == key) for tokens in micro]
        for micro in batch.tokens
    ]


@pytest.mark.parametrize(("preset", "tied"), [("mathllm", True), ("residual", True), ("residual", False)])
@pytest.mark.parametrize("recursions", [1, 2])
def test_gradients_of_the_first_and_a_later_supervision_step(preset, tied, recursions):
    """With one pass y_init gets its gradient in the first step only; with more, never."""
    model = tiny_model(preset, recursions=recursions, tied=tied)
    loader = Loader(examples(), batch_size=4)
    batch = jax.tree.map(lambda array: array[0], loader[0])
    oracle = ReferenceTrainer(reference(model, torch.float64), TrainConfig(), 1)  # only one side's rounding counts
    (rows,), states = rows_of(loader, loader[0]), [None] * 4
    labelled = sum(len(tokens) - prompt for tokens, prompt in rows)
    hidden, _ = model.backbone(batch.tokens)
    y = z = np.zeros(hidden.last.shape, np.float32)
    grad = jax.jit(jax.value_and_grad(supervision_loss, has_aux=True), static_argnums=8)
    for first in (True, False):
        args = (model.trm, model.backbone, batch, hidden, y, z, first, labelled, np.float32)
        (loss, (_, y, z)), grads = grad(*args)
        expected, states = oracle.step_gradients(rows, states)
        assert abs(loss - expected) < 1e-4 * expected
        for name, found in named_weights(grads).items():
            wanted = oracle.model.trm[name].grad.numpy()
            assert max_error(found, wanted) <= 1e-4 * np.abs(wanted).max(), name


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_three_batches_of_training(preset, accumulation):
    """Losses, weights and EMA after nine optimizer steps: clipping, schedule, decay, accumulation, detachment."""
    model = tiny_model(preset)
    config = TrainConfig(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9, batch_size=4 // accumulation)
    steps = 3 * model.trm.config.supervision_steps
    oracle = ReferenceTrainer(reference(model), config, steps)
    loader = Loader(examples(), config.batch_size, accumulation)
    optimizer = make_optimizer(config, steps)
    train_batch = make_train_batch(optimizer, config.ema_decay, np.float32)
    state = new_state(jax.tree.map(np.copy, model.trm), optimizer)
    for number in range(3):
        batch = loader[number]
        state, metrics = train_batch(state, model.backbone, batch)
        expected = oracle.train_batch(rows_of(loader, batch))
        np.testing.assert_allclose(metrics.loss, expected, rtol=1e-4)
    for found, wanted in ((state.trm, oracle.model.trm), (state.ema, oracle.ema)):
        for name, weight in named_weights(found).items():
            expected = wanted[name].detach().numpy()
            assert max_error(weight, expected) <= 1e-4 * np.abs(expected).max(), name
    assert int(state.steps) == steps
    assert int(state.batches) == 3


def test_per_pass_decoding_is_recomputing_the_whole_sequence(model):
    tokens = generate(model, PROMPTS, 6, kv_cache="per_pass", eos_token_ids=[])
    assert tokens == [reference(model).greedy_recomputed(prompt, 6) for prompt in PROMPTS]


def test_last_pass_decoding_sees_the_past_as_its_last_pass_left_it(model):
    tokens = generate(model, PROMPTS, 6, kv_cache="last_pass", eos_token_ids=[])
    assert tokens == [reference(model).greedy_last_pass(prompt, 6) for prompt in PROMPTS]


def test_the_two_cache_policies_differ():
    """Otherwise the two tests above could pass with either policy."""
    model = tiny_model("mathllm")
    prompts = [list(map(int, random_tokens(12, seed=seed))) for seed in range(8)]
    exact, approximate = (generate(model, prompts, 12, kv_cache=k, eos_token_ids=[]) for k in ("per_pass", "last_pass"))
    assert exact != approximate


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("mathllm", {"num_kv_heads": 2}),
        ("residual", {"num_kv_heads": 2}),
        ("mathllm", {"tied": False}),
        ("layers", {"supervision_steps": 1}),
        ("single", {}),
    ],
)
def test_other_shapes_of_the_recursion(preset, changes):
    """Grouped key/value heads, a block for each call, the controls: logits, and tokens with either cache."""
    model = tiny_model(preset, **changes)
    tokens = random_tokens((1, 11))
    expected = [logits.numpy() for logits, _, _ in reference(model).all_steps(tokens[0])]
    assert max_error(supervision_logits(model, tokens)[:, 0], np.stack(expected)) < 1e-4
    for kv_cache, greedy in (("per_pass", "greedy_recomputed"), ("last_pass", "greedy_last_pass")):
        found = generate(model, PROMPTS, 6, kv_cache=kv_cache, eos_token_ids=[])
        assert found == [getattr(reference(model), greedy)(prompt, 6) for prompt in PROMPTS]


def test_grouped_key_value_heads_make_the_cache_smaller():
    models = tiny_model("residual"), tiny_model("residual", num_kv_heads=2)
    whole, grouped = (model.trm.empty_cache(model.backbone.config, 1, 2, 16).keys for model in models)
    assert count_bytes(whole) == 2 * count_bytes(grouped)


def test_key_value_heads_must_divide_the_query_heads():
    with pytest.raises(ConfigError, match="3 key/value heads of the recursion do not divide its 4 query heads"):
        tiny_model("residual", num_kv_heads=3)


def test_the_layers_control_has_a_block_for_each_block_call():
    """And `single` has the parameters of `residual`."""
    sizes = dict(latent_updates=2, recursions=2, supervision_steps=3)
    config = TRMConfig.layers(**sizes)
    assert (config.calls, config.passes) == (18, 1)
    backbone = abstract_qwen(tiny_qwen_config())
    layers, residual, single = (
        abstract_trm(backbone, TRMConfig.preset(preset, **sizes)) for preset in ("layers", "residual", "single")
    )
    assert count_weights(residual) == count_weights(single)
    assert count_weights(layers) - count_weights(residual) == 17 * count_weights(residual.block)


def test_original_sizes_are_the_default():
    config = TRMConfig.mathllm()
    assert config.passes * config.calls == 336
