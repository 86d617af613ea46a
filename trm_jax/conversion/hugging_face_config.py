"""The `config.json` of a Hugging Face folder, to `QwenConfig` and back."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from trm_jax.config import ConfigError, QwenConfig
from trm_jax.errors import listing
from trm_jax.files import read_object

# Hugging Face's name of each of our fields whose value is taken over as it is.
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_length",
}


def read_config(folder: pathlib.Path) -> QwenConfig:
    """The config of a Hugging Face folder; its `generation_config.json` may add end tokens. Raises ConfigError.

    Example: `read_config(find_model("Qwen/Qwen2.5-Math-1.5B-Instruct"))`.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is not a Hugging Face model folder: it has no config.json{_what_it_is(folder)}")
    try:
        config = from_hugging_face(read_object(folder / "config.json", ConfigError))
        if (folder / "generation_config.json").is_file():
            more = _end_tokens(read_object(folder / "generation_config.json", ConfigError))
            config = dataclasses.replace(config, end_tokens=(*config.end_tokens, *more))
    except ConfigError as error:
        raise ConfigError(f"{folder} cannot be converted: {error}") from None
    return config


def from_hugging_face(values: Mapping[str, Any]) -> QwenConfig:
    """The config of a Qwen2/Qwen2.5 causal model from its `config.json`, as transformers 4 or 5 writes it.

    Raises ConfigError for another architecture and for features that the backbone does not compute.
    """
    if values.get("model_type") != "qwen2":
        raise ConfigError(f"model_type is {values.get('model_type')!r}; only Qwen2 and Qwen2.5 ('qwen2') convert")
    kinds = values.get("architectures") or ["Qwen2ForCausalLM"]
    if not isinstance(kinds, list) or not {"Qwen2ForCausalLM", "Qwen2Model"} & set(map(str, kinds)):
        raise ConfigError(f"it is a {listing(kinds)}, which writes no text; only causal language models convert")
    if values.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"hidden_act is {values['hidden_act']!r}; the backbone computes 'silu'")
    if _has_windows(values):
        raise ConfigError("some layers use a sliding window; the backbone computes full attention only")
    if values.get("quantization_config"):
        raise ConfigError("the weights are quantised (quantization_config); take the model that was not quantised")
    if missing := sorted(FIELDS.keys() - values.keys()):
        raise ConfigError(f"config.json lacks {missing}")
    return QwenConfig(
        **{field: values[name] for name, field in FIELDS.items()},
        end_tokens=_end_tokens(values),
        rope_theta=_rope_theta(values),
        tied_head=bool(values.get("tie_word_embeddings", False)),
    )


def _has_windows(values: Mapping[str, Any]) -> bool:
    """Whether some layers attend to a sliding window, as transformers reads a config."""
    if kinds := values.get("layer_types"):
        return not isinstance(kinds, list) or set(map(str, kinds)) != {"full_attention"}
    if not values.get("use_sliding_window") or values.get("sliding_window", 4096) is None:
        return False
    first, layers = values.get("max_window_layers", 28), values.get("num_hidden_layers")
    return not isinstance(first, int) or not isinstance(layers, int) or first < layers


def _what_it_is(folder: pathlib.Path) -> str:
    """What a folder without a config.json seems to be, and what to do then."""
    if (folder / "adapter_config.json").is_file():
        base = read_object(folder / "adapter_config.json", ConfigError).get("base_model_name_or_path")
        return f". It is a PEFT adapter of {base}: merge it into that model (merge_and_unload) and convert the result"
    if any(folder.glob("*.gguf")):
        return ". It holds a GGUF file, made for llama.cpp: convert the safetensors model that it was made from"
    return ""


def to_hugging_face(config: QwenConfig) -> dict[str, Any]:
    """The `config.json` that transformers and `from_hugging_face` read back."""
    return {name: getattr(config, field) for name, field in FIELDS.items()} | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "use_sliding_window": False,
        "eos_token_id": list(config.end_tokens),
    }


def _end_tokens(values: Mapping[str, Any]) -> list[Any]:
    """`eos_token_id`, which may be one token, a list of them, or missing."""
    found = values.get("eos_token_id")
    return [token for token in (found if isinstance(found, list) else [found]) if token is not None]


def _rope_theta(values: Mapping[str, Any]) -> float:
    """The rotary base: `rope_theta` (transformers 4) or `rope_parameters.rope_theta` (transformers 5), one required."""
    found = [values.get("rope_theta")]
    for name in ("rope_parameters", "rope_scaling"):  # of transformers 5 and 4; people add the latter beside the former
        parameters = values.get(name) or {}
        if not isinstance(parameters, Mapping):
            raise ConfigError(f"{name} is {parameters!r:.80}; it must be an object")
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if kind != "default":
            raise ConfigError(f"rotary embedding of type {kind!r} is not supported, only 'default'")
        found.append(parameters.get("rope_theta"))
    found = [theta for theta in found if theta is not None]
    if not found or any(theta != found[0] for theta in found):
        raise ConfigError(
            f"config.json must give one rotary base, rope_theta or rope_parameters.rope_theta; found {found!r:.80}"
        )
    return found[0]
