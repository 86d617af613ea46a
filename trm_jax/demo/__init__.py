"""A tiny Qwen2, word problems for it, and the sizes at which the recursion is trained on them in minutes."""

import pathlib

MODEL = pathlib.Path(__file__).parent / "model"  # a Hugging Face folder, made by scripts/make_demo.py

# What train.py takes on the demo's data where no option says otherwise.
TRM_SIZES = {"latent_updates": 1, "recursions": 1, "supervision_steps": 2}
TRAINING = {
    "epochs": 2,
    "batch_size": 48,
    "learning_rate": 3e-3,
    # alpha starts at zero, and what the block gets to learn from is proportional to it: at the common rate it is the
    # brake of so short a training (docs/log.md).
    "alpha_rate": 15.0,
    "warmup_steps": 40,
    "ema_decay": 0.98,
    "max_length": 128,
}
MAX_BATCHES = 600

# What is evaluated on the demo's data.
EVAL_BATCH, MAX_NEW_TOKENS = 64, 48
