"""The backbone: Qwen2/Qwen2.5 as published, its layers stacked and scanned."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.config import QwenConfig
from trm_jax.hardware import gathered
from trm_jax.model.attention import Attention, Rotation
from trm_jax.model.kv_cache import KeysValues, KVCache, Past
from trm_jax.model.layers import RMSNorm, SwiGLU

BLOCK = 128  # tokens; the vocabularies of Qwen2.5 are multiples of it
NUM_LEVELS = 4  # hidden states kept for the recursion: after the embedding, 1/3, 2/3 and all of the layers


class Hidden(NamedTuple):
    """What the recursion sees of the backbone."""

    last: Float[Array, "B S D"]  # x, after the final norm
    # The residual stream after the embedding, 1/3, 2/3 and all of the layers; None where they were not kept.
    levels: Float[Array, "4 B S D"] | None


class QwenLayer(nnx.Module):
    """Pre-norm attention and SwiGLU with residuals."""

    def __init__(self, config: QwenConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.num_heads, config.num_kv_heads, bias=True, rngs=rngs)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config.width, config.mlp_width, rngs=rngs)

    def __call__(self, h: Float[Array, "B S D"], rotation: Rotation, past: Past | None = None):
        attended, new = self.attention(self.attention_norm(h), rotation, past)
        h = h + attended
        return h + self.mlp(self.mlp_norm(h)), new


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

    @property
    def stacked(self) -> bool:
        """Whether the layers are one module of stacked weights, run in a loop: quick to compile, slow for single tokens."""
        return isinstance(self.layers, QwenLayer)

    def rotation(self, positions: Int[Array, "#B S"]) -> Rotation:
        return Rotation.at(positions, self.config.head_size, self.config.rope_theta)

    def empty_cache(self, batch: int, capacity: int) -> KVCache:
        config = self.config
        dtype = self.embedding.dtype
        shape = (1, config.num_layers) if self.stacked else (config.num_layers, 1)
        heads = (self.layers if self.stacked else self.layers[0]).attention.num_kv_heads
        return KVCache.empty(*shape, batch, capacity, heads, config.head_size, dtype)

    def __call__(self, tokens: Int[Array, "B S"], cache: KVCache | None = None) -> tuple[Hidden, list[KeysValues]]:
        """Hidden states of the tokens, and their keys and values as `KVCache` takes them.

        Without a cache the tokens are whole sequences; with one there is one token a row, which follows those in it.
        """
        length, num_layers = tokens.shape[1], self.config.num_layers
        rotation = self.rotation(jnp.arange(length)[None] if cache is None else cache.positions(length))
        depths = [round(level * num_layers / (NUM_LEVELS - 1)) for level in range(NUM_LEVELS)]
        embedding = self.embedding[...]
        if cache is None:  # a single token is so little that it is looked up where the embedding lies
            embedding = gathered({"embedding": embedding})["embedding"]
        h = embedding[tokens]
        if not self.stacked:
            every, after = [], [h]
            for index, layer in enumerate(self.layers):
                h, new = layer(h, rotation, cache and cache.past(index))
                every.append(jax.tree.map(lambda array: array[None], new))
                after.append(h)
            return Hidden(self.norm(h), jnp.stack([after[depth] for depth in depths])), every

        def step(carry, layer_and_depth):
            (h, levels), (layer, depth) = carry, layer_and_depth
            h, new = gathered(layer)(h, rotation, cache and cache.past(0, depth - 1))
            here = (jnp.array(depths) == depth)[:, None, None, None]
            return (h, jnp.where(here, h[None], levels)), new

        start = h, jnp.broadcast_to(h, (NUM_LEVELS, *h.shape))
        (h, levels), new = jax.lax.scan(step, start, (self.layers, jnp.arange(1, num_layers + 1)))
        return Hidden(self.norm(h), levels), [new]


def abstract_qwen(config: QwenConfig) -> Qwen:
    """The backbone with shapes in place of arrays. Example: `abstract_qwen(config).embedding.shape`."""
    return nnx.eval_shape(lambda: Qwen(config, nnx.Rngs(0)))


def without_layers(backbone: Qwen) -> Qwen:
    """What of the backbone is needed once the hidden states are known: its output head.

    Example: `without_layers(abstract_qwen(config)).layers` is None.
    """
    backbone = jax.tree.map(lambda weight: weight, backbone)  # a new module around the same arrays
    backbone.layers, backbone.norm = None, None
    if backbone.lm_head is not None:
        backbone.embedding = None
    return backbone


def project(h: Float[Array, "*batch D"], head: Float[Array, "V D"]) -> Float[Array, "*batch V"]:
    """Logits of hidden states, accumulated and returned in float32. Example: `project(hidden.last, backbone.head)`."""
    return jnp.einsum("...D,VD->...V", h, head, preferred_element_type=jnp.float32)


def most_likely(logits: Float[Array, "*batch V"]) -> Int[Array, "*batch"]:
    """The token of the highest logit, the first one of those that are equal. Example: `most_likely(project(h, head))`."""
    argmax = functools.partial(jnp.argmax, axis=-1)
    return jax.lax.platform_dependent(logits, cpu=_argmax_of_blocks, default=argmax).astype(jnp.int32)


def _argmax_of_blocks(logits):
    """First the block, then the token in it: XLA:CPU compares one number at a time in argmax, and many in max."""
    if logits.shape[-1] % BLOCK:
        return jnp.argmax(logits, axis=-1)
    blocks = logits.reshape(*logits.shape[:-1], -1, BLOCK)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    tokens = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return block * BLOCK + jnp.argmax(tokens, axis=-1)
