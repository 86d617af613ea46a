"""A tiny Qwen2, word problems for it, and the settings with which the recursion is trained on them in minutes."""

import pathlib

from trm_jax.demo import problems

MODEL = pathlib.Path(__file__).parent / "model"  # a Hugging Face folder, made by scripts/make_demo.py

# Defaults of the scripts for the demo's data: loop counts, training, generation.
DEFAULTS = {
    # The counts that `residual` has anyway, for `mathllm` too: the original's are 84 times as many block calls, which is no
    # matter of minutes.
    "latent_updates": 1,
    "recursions": 1,
    "supervision_steps": 2,
    "epochs": 2,
    "batch_size": 48,
    "learning_rate": 3e-3,
    # alpha starts at zero, and the block's gradients are proportional to it: with the same learning rate as the other
    # weights it would slow down so short a training (docs/log.md).
    "alpha_rate": 15.0,
    "warmup_steps": 40,
    "ema_decay": 0.98,
    "max_length": 128,
    "max_batches": 600,
    "max_new_tokens": 48,
}
