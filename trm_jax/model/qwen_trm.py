"""The whole model: a frozen backbone, the recursion on top of it, and an output head."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.config import TRMConfig
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
    rotation = model.backbone.rotation(jnp.arange(input_ids.shape[1])[None])

    def step(state, _):
        y, z = trm.supervision_step(context, *state, rotation)
        return (y, z), project(trm.features(hidden.last, y), model.head)

    _, logits = jax.lax.scan(step, trm.start(context), length=trm.config.supervision_steps)
    return logits


def for_decoding(model: QwenTRM) -> QwenTRM:
    """The same model with the backbone's layers unstacked, so that a decoding step reads them without copying them.

    On a CPU the kernels are transposed too. The layers are copies: drop the given model, or they are in memory twice.

    Example: `model = for_decoding(trm_jax.load_model("runs/train"))`.
    """
    if not model.backbone.stacked:
        return model
    model = jax.tree.map(lambda weight: weight, model)  # new modules around the same arrays
    backbone = model.backbone
    take = jax.jit(lambda layers, index: jax.tree.map(lambda weight: weight[index], layers))
    backbone.layers = nnx.List([take(backbone.layers, index) for index in range(backbone.config.num_layers)])
    if jax.default_backend() == "cpu":
        for _, module in nnx.iter_graph(model):
            if isinstance(module, Linear):
                module.transpose()
    return model
