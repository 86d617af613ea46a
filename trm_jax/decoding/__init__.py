"""Tokens from a model, prompt by prompt and row by row."""

from trm_jax.decoding.generate import ASKED_EVERY, Completion, decode_config, generate, generate_each
from trm_jax.decoding.room import MOST_ROWS, NoRoomError, Room
from trm_jax.decoding.rows import ENDLESS, Progress, Request, Rows, require_prompts
from trm_jax.decoding.sampling import GREEDY, GenerationError, Sampling
from trm_jax.decoding.shapes import CAPACITY_STEP, ONE_BY_ONE, pad_prompts, padded_length, round_up
from trm_jax.decoding.step import (
    DecodeConfig,
    DecodeState,
    Placement,
    decode_step,
    decode_until,
    insert,
    prefill,
)
