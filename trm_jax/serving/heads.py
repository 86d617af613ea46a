"""One model with two heads that can be asked: the backbone alone, and backbone + TRM."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from trm_jax.decoding import Request, Sampling
from trm_jax.model import QwenTRM
from trm_jax.serving.engine import Engine, head_config
from trm_jax.serving.text import TextStream

Head = Literal["trm", "backbone"]
NAMES: dict[Head, str] = {"backbone": "backbone alone", "trm": "backbone + TRM"}


@dataclasses.dataclass
class Answer:
    """An answer as far as it has come; it is whole when iterating over `Heads.answer` has ended."""

    text: str = ""
    tokens: int = 0
    pieces: list[str] = dataclasses.field(default_factory=list)  # what each token added to the text
    steps: list[int] = dataclasses.field(default_factory=list)  # the supervision steps that each token took
    end: Literal["stop", "length"] | None = None


class Heads:
    """Engines of one row for each head of a model, one engine for each number of supervision steps. To be closed.

    Example: `heads = Heads(model, tokenizer, capacity=768)`.
    """

    def __init__(self, model: QwenTRM, tokenizer, capacity: int, **settings):
        """`settings` are those of `decode_config`: `supervision_steps`, `kv_cache`, `early_exit`."""
        self._model, self._tokenizer, self._capacity, self._settings = model, tokenizer, capacity, settings
        self._engines: dict[int | None, Engine] = {}

    @property
    def exits_early(self) -> bool:
        """Whether tokens may take fewer supervision steps than the settings'."""
        return self._settings.get("early_exit") is not None

    def answer(
        self, head: Head, prompt: list[int], limit: int, sampling: Sampling, answer: Answer, steps: int | None = None
    ) -> Iterator[str]:
        """The text of an answer, piece by piece; `answer` gets all that is known of it.

        An answer that is not read to its end is given up. `steps` are other supervision steps than the settings'.

        Example: `print(*heads.answer("trm", prompt, 512, GREEDY, Answer()), sep="")`.
        """
        stream = self._engine(steps).submit(head, Request(prompt, limit, sampling))
        text = TextStream(self._tokenizer)
        try:
            for piece in stream:
                pieces = [text.add([token]) for token in piece.tokens]
                if piece.end is not None:
                    pieces[-1] += text.end()
                new = "".join(pieces)
                answer.text += new
                answer.tokens += len(piece.tokens)
                answer.pieces += pieces
                answer.steps += piece.steps
                answer.end = piece.end
                yield new
        finally:
            stream.cancel()

    def _engine(self, steps: int | None) -> Engine:
        if steps not in self._engines:
            settings = self._settings if steps is None else self._settings | {"supervision_steps": steps}
            configs = {head: head_config(self._model, head, **settings) for head in NAMES}
            self._engines[steps] = Engine(self._model, configs, self._capacity, rows=1)
        return self._engines[steps]

    def close(self) -> None:
        """Ends the engines, when what they are at is done."""
        for engine in self._engines.values():
            engine.close()
