"""Answers questions as they come: an engine that many can ask at once, and the text of its answers."""

from trm_jax.serving.conversation import Conversation
from trm_jax.serving.engine import Engine, head_config
from trm_jax.serving.heads import Answer, Heads
from trm_jax.serving.stream import EndedError, EngineError, FullError, Piece, Stream
from trm_jax.serving.terminal import Settings, answer_all, talk, terminal_width
from trm_jax.serving.text import TextStream
