"""Backbones of the published dimensions, and small ones for a CPU, with random weights."""

import jax
from flax import nnx

from trm_jax.config import QwenConfig
from trm_jax.model.qwen import Qwen
from trm_jax.model.weights import cast

_END_TOKENS = (151643, 151645)

SIZES = {
    "demo": QwenConfig(
        vocab_size=495,
        width=64,
        mlp_width=192,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        rope_theta=1e4,
        norm_eps=1e-6,
        tied_head=True,
        max_length=512,
        end_tokens=(494,),
    ),
    "width-128": QwenConfig(
        vocab_size=2048,
        width=128,
        mlp_width=512,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        rope_theta=1e4,
        norm_eps=1e-6,
        tied_head=True,
        max_length=4096,
        end_tokens=(),
    ),
    "width-512": QwenConfig(
        vocab_size=8192,
        width=512,
        mlp_width=2048,
        num_layers=6,
        num_heads=8,
        num_kv_heads=2,
        rope_theta=1e4,
        norm_eps=1e-6,
        tied_head=True,
        max_length=4096,
        end_tokens=(),
    ),
    "qwen2.5-0.5b": QwenConfig(
        vocab_size=151936,
        width=896,
        mlp_width=4864,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        rope_theta=1e6,
        norm_eps=1e-6,
        tied_head=True,
        max_length=32768,
        end_tokens=_END_TOKENS,
    ),
    "qwen2.5-math-1.5b": QwenConfig(
        vocab_size=151936,
        width=1536,
        mlp_width=8960,
        num_layers=28,
        num_heads=12,
        num_kv_heads=2,
        rope_theta=1e4,
        norm_eps=1e-6,
        tied_head=True,
        max_length=4096,
        end_tokens=_END_TOKENS,
    ),
    "qwen2.5-math-7b": QwenConfig(
        vocab_size=152064,
        width=3584,
        mlp_width=18944,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        rope_theta=1e4,
        norm_eps=1e-6,
        tied_head=False,
        max_length=4096,
        end_tokens=_END_TOKENS,
    ),
}


def random_backbone(config: QwenConfig, dtype) -> Qwen:
    """A backbone of random weights, made on the device without a float32 copy of the whole."""
    return jax.jit(lambda: cast(Qwen(config, nnx.Rngs(0)), dtype))()
