"""The learning rate's schedule, the optimizer, and the number of supervision steps that each batch gets."""

import jax
import numpy as np
import optax
from optax import contrib

from trm_jax.config import TrainConfig
from trm_jax.model import TRM

# Orthogonalised updates are scaled to the root mean square that AdamW's have, so that one learning rate serves both
# ("Muon is Scalable for LLM Training", arXiv 2502.16982).
MUON_RMS = 0.2
ADAM_B1, ADAM_B2 = 0.9, 0.95


def supervision_depths(config: TrainConfig, supervision_steps: int, num_batches: int) -> np.ndarray:
    """The supervision steps of each batch, int32[num_batches]: a function of the config alone.

    Example: `supervision_depths(TrainConfig(), supervision_steps=16, num_batches=3)` is `[16, 16, 16]`.
    """
    depths = np.full(num_batches, supervision_steps, np.int32)
    if config.random_depth:
        depths = np.random.default_rng(config.seed).integers(1, depths + 1).astype(np.int32)
    return depths


def make_schedule(config: TrainConfig, optimizer_steps: int) -> optax.Schedule:
    """Linear warm-up, then a cosine to a tenth of the rate over all optimizer steps: one for each supervision step."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(optimizer_steps, config.warmup_steps + 1),
        end_value=config.learning_rate / 10,
    )


def make_optimizer(config: TrainConfig, optimizer_steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, AdamW's or Muon's direction, decoupled weight decay, the schedule.

    Muon orthogonalises the updates of the block's matrices; vectors and a trained output head stay with Adam. `alpha` moves
    `alpha_rate` times as fast as the rest.

    Example: `make_optimizer(TrainConfig(learning_rate=1e-3), optimizer_steps=14_960)`.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        _direction(config.optimizer),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(make_schedule(config, optimizer_steps)),
        optax.stateless(lambda updates, _: _scale_alpha(updates, config.alpha_rate)),
    )


def _direction(optimizer: str) -> optax.GradientTransformation:
    """The direction of an update, before weight decay and learning rate."""
    adam = optax.scale_by_adam(b1=ADAM_B1, b2=ADAM_B2)
    if optimizer == "adamw":
        return adam
    # optax negates Muon's updates. The rate of -1 undoes that, so that the learning rate is applied as with Adam.
    muon = contrib.muon(-1.0, consistent_rms=MUON_RMS)
    return optax.partition({"muon": muon, "adam": adam}, _muon_or_adam)


def _muon_or_adam(trm: TRM) -> TRM:
    def label(path, weight):
        return "muon" if "block" in jax.tree_util.keystr(path) and weight.ndim == 2 else "adam"

    return jax.tree_util.tree_map_with_path(label, trm)


def _scale_alpha(updates: TRM, rate: float) -> TRM:
    def scale(path, update):
        return update * rate if "alpha" in jax.tree_util.keystr(path) else update

    return jax.tree_util.tree_map_with_path(scale, updates)
