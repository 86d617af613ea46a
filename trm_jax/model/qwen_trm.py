"""The whole model: a frozen backbone, the recursion on top of it, and an output head."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.config import TRMConfig
from trm_jax.hardware import has_mesh, laid_out, tensor_parts
from trm_jax.model.attention import Attention
from trm_jax.model.layers import Linear
from trm_jax.model.qwen import Qwen, project
from trm_jax.model.trm import TRM


class QwenTRM(nnx.Module):
    """A frozen backbone with a Tiny Recursive Model on its hidden states."""

    def __init__(self, backbone: Qwen, trm: TRM):
        self.backbone = backbone
        self.trm = trm

    @property
    def head(self) -> Float[Array, "V D"]:
        """The output head: the recursion's own where it trains one, else the backbone's."""
        return self.backbone.head if self.trm.head is None else self.trm.head[...]


def new_trm(backbone: Qwen, config: TRMConfig, seed: int = 0) -> TRM:
    """An untrained recursion for a backbone, in float32.

    Example: `QwenTRM(backbone, new_trm(backbone, TRMConfig.residual(), seed=0))`.
    """
    head = None if config.frozen_head else backbone.head
    return TRM(backbone.config, config, nnx.Rngs(seed), head)


def abstract_trm(backbone: Qwen, config: TRMConfig) -> TRM:
    """The recursion with shapes in place of arrays; the backbone may be abstract too.

    Example: `abstract_trm(abstract_qwen(config), TRMConfig.residual())`.
    """
    return nnx.eval_shape(lambda qwen: new_trm(qwen, config), backbone)


def supervision_logits(model: QwenTRM, input_ids: Int[Array, "B S"]) -> Float[Array, "N_sup B S V"]:
    """The logits of each next token after each supervision step, in float32.

    Rows are whole sequences, padded on the right; the padding does not influence the tokens before it.

    Example: `supervision_logits(model, [[1, 2, 3]])[-1]`.
    """
    return _supervision_logits(model, jnp.asarray(input_ids, jnp.int32))


@jax.jit
def _supervision_logits(model: QwenTRM, input_ids):
    trm = model.trm
    hidden, _ = model.backbone(input_ids)
    context = trm.context(hidden)
    rotation = trm.rotation(jnp.arange(input_ids.shape[1])[None])

    def step(state, _):
        y, z = trm.supervision_step(context, *state, rotation)
        return (y, z), project(trm.features(hidden.last, y), model.head)

    _, logits = jax.lax.scan(step, trm.start(context), length=trm.config.supervision_steps)
    return logits


def for_decoding(model: QwenTRM, donate: bool = False, platform: str | None = None) -> QwenTRM:
    """The same model with the backbone's layers unstacked, so that a decoding step reads them without copying them.

    On a CPU kernels in float32 are transposed too, and on a mesh with more devices for the heads than there are key/value
    heads, these are repeated, so that each device has one.

    Args:
        donate: give up each of the given model's stacked arrays as soon as it is unstacked, so that only one of them is ever
            held twice; the given model cannot be used afterwards. Without it all layers are held twice.
        platform: for which the programs will be compiled; that of JAX's default backend if not given.

    Example: `model = for_decoding(trm_jax.load_model("runs/train"), donate=True)`.
    """
    if not model.backbone.stacked:
        return model
    model = jax.tree.map(lambda weight: weight, model)  # new modules around the same arrays
    backbone = model.backbone
    stacked, structure = jax.tree.flatten(backbone.layers)
    by_weight = [_unstack(array, backbone.config.num_layers, donate) for array in stacked]
    backbone.layers = nnx.List([jax.tree.unflatten(structure, layer) for layer in zip(*by_weight, strict=True)])
    parts = tensor_parts()
    for _, module in nnx.iter_graph(model):
        if isinstance(module, Attention) and parts > module.num_kv_heads and parts % module.num_kv_heads == 0:
            module.repeat_kv_heads(parts // module.num_kv_heads)
    if has_mesh():
        return laid_out(model)
    if (platform or jax.default_backend()) == "cpu":
        for _, module in nnx.iter_graph(model):
            # In bfloat16 XLA:CPU would convert a transposed kernel to float32 for every token (docs/log.md).
            if isinstance(module, Linear) and module.kernel.dtype == jnp.float32:
                module.transpose()
    return model


def _unstack(array: Array, count: int, donate: bool) -> list[Array]:
    parts = [_take(array, index) for index in range(count)]
    if donate:
        jax.block_until_ready(parts)
        array.delete()
    return parts


@jax.jit
def _take(array, index):
    return array[index]
