"""A Tiny Recursive Model on the last hidden states of a frozen Qwen2.5, in JAX/Flax."""

import importlib

_HOMES = {
    "QwenConfig": "config",
    "TRMConfig": "config",
    "QwenTRM": "model",
    "supervision_logits": "model",
    "load_model": "publishing",
    "load_tokenizer": "publishing",
    "encode_prompts": "data",
    "generate": "decoding",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    # Imported on first use, so that the scripts answer --help without loading JAX.
    if name not in _HOMES:
        raise AttributeError(f"module 'trm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trm_jax.{_HOMES[name]}"), name)
