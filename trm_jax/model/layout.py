"""How weights lie in memory while tokens are generated, one at a time."""

import jax
from flax import nnx

from trm_jax.model.layers import Linear
from trm_jax.model.qwen_trm import QwenTRM


def for_decoding(model: QwenTRM) -> QwenTRM:
    """The same model with the backbone's layers apart, so that a step reads them where they are and copies none.

    On a CPU the kernels are transposed too. The arrays are new: drop the model given to have the backbone in memory once.
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
