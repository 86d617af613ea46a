"""Configs: strict JSON, both spellings of Hugging Face, and what is refused."""

import pytest

from tests.support.models import tiny_qwen_config
from trm_jax import demo
from trm_jax.config import ConfigError, QwenConfig, TRMConfig
from trm_jax.conversion.hugging_face_config import from_hugging_face, to_hugging_face


def hugging_face(**changes):
    return to_hugging_face(tiny_qwen_config()) | changes


def test_round_trips():
    qwen, trm = tiny_qwen_config(), TRMConfig.residual(latent_updates=3)
    assert QwenConfig.from_json(qwen.to_json()) == qwen
    assert from_hugging_face(to_hugging_face(qwen)) == qwen
    assert TRMConfig.from_json(trm.to_json()) == trm


@pytest.mark.parametrize("values", [{}, {"latent_updates": 6, "surprise": 1}])
def test_json_must_have_exactly_the_fields(values):
    """A field that is dropped in silence is a different model."""
    with pytest.raises(ConfigError, match="missing fields"):
        TRMConfig.from_json(values)


def test_a_config_of_a_former_version_lacks_what_was_added_since():
    """It computed what the default is."""
    values = TRMConfig.residual().to_json()
    del values["rope_theta"]
    assert TRMConfig.from_json(values) == TRMConfig.residual()


def test_both_spellings_of_the_rotary_base():
    """A default in place of a missing base would be a silently wrong model."""
    new = hugging_face(rope_parameters={"rope_theta": 1000.0, "rope_type": "default"})
    del new["rope_theta"]
    assert from_hugging_face(new).rope_theta == 1000.0
    del new["rope_parameters"]
    with pytest.raises(ConfigError, match="rotary base"):
        from_hugging_face(new)
    with pytest.raises(ConfigError, match="rotary base"):
        from_hugging_face(hugging_face(rope_parameters={"rope_theta": 5.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True, "max_window_layers": 2}, "sliding"),
        ({"use_sliding_window": True, "max_window_layers": "all"}, "sliding"),
        ({"layer_types": ["full_attention", "full_attention", "sliding_attention"]}, "sliding"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "yarn"),
        ({"num_attention_heads": 5}, "do not fit"),
        ({"num_hidden_layers": 0}, "above zero"),
    ],
)
def test_what_the_backbone_does_not_compute_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_hugging_face(hugging_face(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": True, "max_window_layers": 3},  # the window is of the layers behind that many
        {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None},
        {"use_sliding_window": True, "max_window_layers": 0, "layer_types": ["full_attention"] * 3},
        {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 0},
    ],
)
def test_a_window_of_no_layer_is_none(changes):
    """Transformers computes full attention for these."""
    transformers = pytest.importorskip("transformers")
    values = hugging_face(**changes)
    assert set(transformers.Qwen2Config(**values).layer_types) == {"full_attention"}
    assert from_hugging_face(values) == tiny_qwen_config()


def loops(config: TRMConfig) -> tuple[int, int, int]:
    return config.latent_updates, config.recursions, config.supervision_steps


def test_presets_differ_in_the_five_places_of_the_contract_and_in_their_loop_counts():
    """The texts are those of --help."""
    assert TRMConfig.preset_fields() == {
        "latent_updates": "residual 1, mathllm 6",
        "recursions": "residual 1, mathllm 3",
        "supervision_steps": "residual 2, mathllm 16",
        "block": "residual post_norm, mathllm plain",
        "context": "residual mix, mathllm last",
        "readout": "residual residual, mathllm replace",
        "frozen_head": "residual True, mathllm False",
        "kv_cache": "residual per_pass, mathllm last_pass",
    }


def test_the_loop_counts_of_the_presets():
    """mathllm's are the original's, 336 block calls a token; residual has four, and its controls follow it."""
    assert loops(TRMConfig.mathllm()) == (6, 3, 16)
    assert loops(TRMConfig.residual()) == (1, 1, 2)
    assert loops(TRMConfig.residual(supervision_steps=8)) == (1, 1, 8)
    assert loops(TRMConfig.single()) == (1, 1, 1)
    layers = TRMConfig.layers()
    assert (layers.tied, layers.calls, layers.passes) == (False, 4, 1)


def test_the_demo_is_trained_with_the_loop_counts_of_residual():
    """With mathllm too, whose own would take too long for a demo; a change of residual's must not leave these behind."""
    ours = TRMConfig.residual()
    assert loops(ours) == tuple(demo.DEFAULTS[name] for name in ("latent_updates", "recursions", "supervision_steps"))


def test_unknown_choices_are_refused():
    with pytest.raises(ConfigError, match="post_norm"):
        TRMConfig(block="pre_norm")
    with pytest.raises(ConfigError, match="preset"):
        TRMConfig.preset("tiny")
    with pytest.raises(ConfigError, match="above zero"):
        TRMConfig(recursions=0)
