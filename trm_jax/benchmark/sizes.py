"""Backbones of the published dimensions, and small ones for a CPU, with random weights."""

import functools

import jax
from flax import nnx

from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.hardware import laid_out
from trm_jax.model import Qwen, QwenTRM, abstract_qwen, cast, new_trm


def _size(vocab_size: int, width: int, mlp_width: int, num_layers: int, heads: tuple[int, int], **others) -> QwenConfig:
    """`heads`: query heads and key/value heads."""
    usual = dict(rope_theta=1e4, norm_eps=1e-6, tied_head=True, max_length=4096, end_tokens=())
    sizes = dict(vocab_size=vocab_size, width=width, mlp_width=mlp_width, num_layers=num_layers)
    return QwenConfig(**sizes, num_heads=heads[0], num_kv_heads=heads[1], **(usual | others))


_ENDS = {"end_tokens": (151643, 151645)}
SIZES = {
    "demo": _size(495, 64, 192, 3, (4, 2), max_length=512, end_tokens=(494,)),
    "width-128": _size(2048, 128, 512, 4, (4, 2)),
    "width-512": _size(8192, 512, 2048, 6, (8, 2)),
    "qwen2.5-0.5b": _size(151936, 896, 4864, 24, (14, 2), rope_theta=1e6, max_length=32768, **_ENDS),
    "qwen2.5-math-1.5b": _size(151936, 1536, 8960, 28, (12, 2), **_ENDS),
    "qwen2.5-math-7b": _size(152064, 3584, 18944, 28, (28, 4), tied_head=False, **_ENDS),
}


def abstract_backbone(config: QwenConfig, dtype) -> Qwen:
    """A backbone in `dtype`, with shapes in place of arrays."""
    return jax.eval_shape(functools.partial(cast, dtype=dtype), abstract_qwen(config))


def random_backbone(config: QwenConfig, dtype) -> Qwen:
    """A backbone of random weights, made on the devices without a float32 copy of the whole."""
    return jax.jit(lambda: laid_out(cast(Qwen(config, nnx.Rngs(0)), dtype)))()


def random_model(backbone_config: QwenConfig, trm_config: TRMConfig, dtype) -> QwenTRM:
    """A backbone of random weights and an untrained recursion, both in `dtype`; the same ones in every call.

    Example: `random_model(SIZES["demo"], TRMConfig.residual(), "float32")`.
    """
    backbone = random_backbone(backbone_config, dtype)
    return QwenTRM(backbone, laid_out(cast(new_trm(backbone, trm_config), dtype)))
