"""The backbone: Qwen2/Qwen2.5 as published, its layers stacked and scanned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.cache import KVCache
from trm_jax.config import QwenConfig
from trm_jax.layers import Attention, RMSNorm, Rotation, SwiGLU

NUM_LEVELS = 4  # hidden states kept for the recursion: after the embedding, 1/3, 2/3 and all of the layers


class Hidden(NamedTuple):
    """What the recursion sees of the backbone."""

    last: Float[Array, "B S D"]  # x, after the final norm
    levels: Float[Array, "4 B S D"]  # the residual stream after the embedding, 1/3, 2/3 and all of the layers


class QwenLayer(nnx.Module):
    """Pre-norm attention and SwiGLU with residuals."""

    def __init__(self, config: QwenConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.num_heads, config.num_kv_heads, bias=True, rngs=rngs)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config.width, config.mlp_width, rngs=rngs)

    def __call__(self, h: Float[Array, "B S D"], rotation: Rotation, cache=None, layer=None):
        attended, cache = self.attention(self.attention_norm(h), rotation, cache, layer)
        h = h + attended
        return h + self.mlp(self.mlp_norm(h)), cache


class Qwen(nnx.Module):
    """A Qwen2/Qwen2.5 causal language model.

    Source: the Qwen2 architecture of transformers (`Qwen2ForCausalLM`), with which it agrees to rounding.
    """

    def __init__(self, config: QwenConfig, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.width**-0.5)  # logits of order one from normalised features
        self.embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.width)))
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.layers = nnx.data(jax.vmap(lambda key: QwenLayer(config, nnx.Rngs(key)))(keys))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = None if config.tied_head else nnx.Param(init(rngs.params(), (config.vocab_size, config.width)))

    @property
    def head(self) -> Float[Array, "V D"]:
        """The output embedding, which is the input embedding where the config ties them."""
        return self.embedding[...] if self.lm_head is None else self.lm_head[...]

    def rotation(self, positions: Int[Array, "#B S"]) -> Rotation:
        return Rotation.at(positions, self.config.head_size, self.config.rope_theta)

    def empty_cache(self, batch: int, capacity: int) -> KVCache:
        config = self.config
        dtype = self.embedding.dtype
        return KVCache.empty(config.num_layers, batch, capacity, config.num_kv_heads, config.head_size, dtype)

    def __call__(self, tokens: Int[Array, "B S"], cache: KVCache | None = None) -> tuple[Hidden, KVCache | None]:
        """Hidden states of the tokens, which follow those in the cache; the cache comes back with them written."""
        length = tokens.shape[1]
        rotation = self.rotation(jnp.arange(length)[None] if cache is None else cache.positions(length))
        depths = jnp.array([round(i * self.config.num_layers / (NUM_LEVELS - 1)) for i in range(NUM_LEVELS)])

        def apply_layer(carry, layer_and_index):
            h, levels, cache = carry
            layer, index = layer_and_index
            h, cache = layer(h, rotation, cache, index)
            levels = jnp.where((depths == index + 1)[:, None, None, None], h, levels)
            return (h, levels, cache), None

        h = self.embedding[...][tokens]
        start = (h, jnp.broadcast_to(h, (NUM_LEVELS, *h.shape)), cache)
        indices = jnp.arange(self.config.num_layers)
        (h, levels, cache), _ = jax.lax.scan(apply_layer, start, (self.layers, indices))
        return Hidden(self.norm(h), levels), cache


def abstract_qwen(config: QwenConfig) -> Qwen:
    """The backbone's shapes, without its memory."""
    return nnx.eval_shape(lambda: Qwen(config, nnx.Rngs(0)))


def project(h: Float[Array, "*batch D"], head: Float[Array, "V D"]) -> Float[Array, "*batch V"]:
    """Logits of hidden states, accumulated and returned in float32."""
    return jnp.einsum("...D,VD->...V", h, head, preferred_element_type=jnp.float32)
