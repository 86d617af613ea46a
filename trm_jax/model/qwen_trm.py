"""The whole model: a frozen backbone, the recursion on top of it, and an output head."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.config import TRMConfig
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
    """An untrained recursion for a backbone, in float32."""
    head = None if config.frozen_head else backbone.head
    return TRM(backbone.config, config, nnx.Rngs(seed), head)


def abstract_trm(backbone: Qwen, config: TRMConfig) -> TRM:
    """The recursion's shapes, without its memory; the backbone may be abstract too."""
    return nnx.eval_shape(lambda qwen: new_trm(qwen, config), backbone)


def supervision_logits(model: QwenTRM, input_ids: Int[Array, "B S"]) -> Float[Array, "N_sup B S V"]:
    """The logits of each next token after each supervision step, in float32.

    Rows are whole sequences, padded on the right; what stands in the padding does not reach the tokens before it.
    """
    return _supervision_logits(model, jnp.asarray(input_ids, jnp.int32))


@jax.jit
def _supervision_logits(model: QwenTRM, input_ids):
    trm = model.trm
    hidden, _ = model.backbone(input_ids)
    context = trm.context(hidden)
    rotation = model.backbone.rotation(jnp.arange(input_ids.shape[1])[None])

    def step(state, _):
        y, z = trm.supervision_step(context, *state, rotation)
        return (y, z), project(trm.features(hidden.last, y), model.head)

    _, logits = jax.lax.scan(step, trm.start(context), length=trm.config.supervision_steps)
    return logits
