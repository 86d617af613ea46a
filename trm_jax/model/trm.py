"""The Tiny Recursive Model: one block, applied over and over to two states, y (which is read out) and z (latent).

Source: zxcyxv/MathLLM, after "Less is More: Recursive Reasoning with Tiny Networks" (arXiv 2510.04871).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.hardware import MLP_RATIO
from trm_jax.model.attention import Attention, Rotation
from trm_jax.model.kv_cache import KeysValues, KVCache, Past
from trm_jax.model.layers import KEPT, RMSNorm, SwiGLU, rms_normalize
from trm_jax.model.qwen import NUM_LEVELS, Hidden

NORM_EPS = 1e-6
MIX_START = 0.5

State = Float[Array, "B S D"]


class Block(nnx.Module):
    """The one transformer block.

    `plain`: mlp(norm2(attn(norm1(h)))), without any residual, as the original. `post_norm`: h = norm1(h + attn(h)), then
    norm2(h + mlp(h)), as the TRM paper.
    """

    def __init__(self, backbone: QwenConfig, config: TRMConfig, rngs: nnx.Rngs):
        self.kind = config.block
        self.norm1 = RMSNorm(backbone.width, NORM_EPS)
        heads, kv_heads = backbone.num_heads, config.kv_heads(backbone)
        self.attention = Attention(backbone.width, heads, kv_heads, bias=False, rngs=rngs)
        self.norm2 = RMSNorm(backbone.width, NORM_EPS)
        self.mlp = SwiGLU(backbone.width, MLP_RATIO * backbone.width, rngs=rngs)

    def __call__(self, h: State, rotation: Rotation, past: Past | None = None) -> tuple[State, KeysValues]:
        if self.kind == "post_norm":
            attended, new = self.attention(h, rotation, past)
            h = self.norm1(h + attended)
            return self.norm2(h + self.mlp(h)), new
        attended, new = self.attention(self.norm1(h), rotation, past)
        return self.mlp(self.norm2(attended)), new


class TRM(nnx.Module):
    """Everything that is trained: the block, the start of y, the readout and, unless frozen, an output head.

    If `config.tied` is False, each call of a pass (the n updates of z and the one of y) has a block of its own.
    """

    def __init__(
        self, backbone: QwenConfig, config: TRMConfig, rngs: nnx.Rngs, head: Float[Array, "V D"] | None = None
    ):
        """`head` is the backbone's output head, of which the trained one starts as a copy; a frozen head needs none."""
        width = backbone.width
        self.config = config
        self.rope_theta = backbone.rope_theta if config.rope_theta is None else config.rope_theta
        self.head_size = backbone.head_size
        self.y_init = nnx.Param(jnp.zeros(width))
        self.block = Block(backbone, config, rngs) if config.tied else None
        self.blocks = None if config.tied else nnx.List([Block(backbone, config, rngs) for _ in range(config.calls)])
        self.norm = RMSNorm(width, NORM_EPS)
        self.mix = nnx.Param(jnp.full(NUM_LEVELS, MIX_START, jnp.float32)) if config.context == "mix" else None
        self.alpha = nnx.Param(jnp.zeros(width)) if config.readout == "residual" else None
        self.head = None if config.frozen_head else nnx.Param(jnp.array(head, jnp.float32))

    def rotation(self, positions: Int[Array, "#B S"]) -> Rotation:
        return Rotation.at(positions, self.head_size, self.rope_theta)

    def context(self, hidden: Hidden) -> State:
        """The input of every update of z: the last hidden state, and the weighted levels of the backbone if mixed."""
        if self.mix is None:
            return hidden.last
        levels = rms_normalize(hidden.levels, NORM_EPS)
        return hidden.last + jnp.einsum("i,iBSD->BSD", self.mix[...], levels)

    def start(self, context: State) -> tuple[State, State]:
        """y and z before the first pass."""
        return jnp.broadcast_to(self.y_init[...], context.shape), jnp.zeros_like(context)

    @property
    def calls(self) -> list[Block]:
        """The block of each call of a pass."""
        return [self.block] * self.config.calls if self.config.tied else list(self.blocks)

    @property
    def _whole(self) -> list[None]:
        """The `pasts` of `run_pass` for whole sequences, which have no cache."""
        return [None] * self.config.calls

    def empty_cache(self, backbone: QwenConfig, passes: int, batch: int, capacity: int) -> KVCache:
        """A cache with one array for each block call; `passes` is 1 for last_pass, and all of them for per_pass."""
        heads, dtype = self.calls[0].attention.num_kv_heads, self.y_init.dtype
        return KVCache.empty(self.config.calls, passes, batch, capacity, heads, backbone.head_size, dtype)

    def run_pass(self, context: State, y: State, z: State, rotation: Rotation, pasts: Sequence[Past | None]):
        """One latent recursion: n updates of z, then one of y. Returns y, z and the keys and values of each block call.

        `pasts` holds the cached keys and values for each block call, or None for each where the tokens are whole sequences.
        """
        every = []
        *of_z, of_y = self.calls
        for block, past in zip(of_z, pasts[:-1], strict=True):
            z, new = block(context + y + z, rotation, past)
            every.append(new)
        y, new = of_y(y + z, rotation, pasts[-1])
        return y, z, [*every, new]

    def supervision_step(self, context: State, y: State, z: State, rotation: Rotation):
        """T passes over a whole sequence; only the last one is differentiated."""
        frozen = jax.tree.map(jax.lax.stop_gradient, self)

        def step(state, _):
            y, z, _ = frozen.run_pass(jax.lax.stop_gradient(context), *state, rotation, self._whole)
            return (y, z), None

        if self.config.recursions > 1:
            (y, z), _ = jax.lax.scan(step, jax.lax.stop_gradient((y, z)), length=self.config.recursions - 1)
        return self._run_differentiated_pass(context, y, z, rotation)

    def _run_differentiated_pass(self, context: State, y: State, z: State, rotation: Rotation):
        """Computes the same as `run_pass`, in the form that training needs; tests/test_contract.py holds both to one oracle.

        Between forward and backward pass only the arrays named KEPT stay in memory, and the others are computed again. That
        takes a loop over the block calls: where the calls follow one another in the program, as in `run_pass`, XLA notices
        that the forward pass has computed the same already, and keeps it. Untied blocks cannot share a loop.
        """

        @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
        def call(block, latest, added):
            return block(latest + added, rotation)[0]

        *of_z, of_y = self.calls
        if self.config.tied:
            z, _ = jax.lax.scan(lambda z, _: (call(self.block, z, y + context), None), z, length=len(of_z))
        else:
            for block in of_z:
                z = call(block, z, y + context)
        return call(of_y, z, y), z

    def refine(
        self,
        context: State,
        y: State,
        z: State,
        rotation: Rotation,
        passes: Int[Array, " P"],
        cache: KVCache | None,
        every_pass: bool,
    ):
        """Runs the passes of these numbers, counted over all supervision steps. Returns y, z and the keys and values.

        Args:
            cache: None for whole prompts; else there is one token a row, which follows those in the cache. All passes read
                the same cache if it holds only one pass.
            every_pass: keep the keys and values of all passes, not only of the last one.
        """
        single = cache is not None

        def step(carry, index: Int[Array, ""]):
            y, z, _ = carry
            pasts = self._whole
            if single:
                own = 0 if len(cache.keys[0]) == 1 else index
                pasts = [cache.past(call, own) for call in range(self.config.calls)]
            y, z, new = self.run_pass(context, y, z, rotation, pasts)
            if (
                single
            ):  # few numbers, which are collected in one array, because each array costs a GPU a launch in every pass
                new = jnp.stack([array for call in new for array in call])
            return (y, z, None if every_pass else new), new if every_pass else None

        kept = jax.eval_shape(step, (y, z, None), passes[0])[0][2]
        kept = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kept)
        (y, z, last), every = jax.lax.scan(step, (y, z, kept), passes)
        new = every if every_pass else jax.tree.map(lambda array: array[None], last)
        if single:
            new = [KeysValues(new[:, place], new[:, place + 1]) for place in range(0, new.shape[1], 2)]
        return y, z, new

    def features(self, last: State, y: State) -> State:
        """The input of the output head: norm(y), or with the residual readout `last` + alpha * norm(y)."""
        answer = self.norm(y)
        return answer if self.alpha is None else last + jax.lax.broadcast_to_rank(self.alpha[...], answer.ndim) * answer
