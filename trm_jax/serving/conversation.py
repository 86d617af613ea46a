"""A conversation of several turns, as prompts."""

from trm_jax.data import encode_chat
from trm_jax.serving.stream import EngineError


class Conversation:
    """Questions and answers so far. What does not fit any more is forgotten from the beginning on.

    Example: `prompt = Conversation(tokenizer, longest=512).ask("What is 2 + 2?")`.
    """

    def __init__(self, tokenizer, longest: int):
        """`longest` is the number of tokens that a prompt may have."""
        self._tokenizer, self._longest = tokenizer, longest
        self.messages: list[dict[str, str]] = []

    def ask(self, question: str) -> list[int]:
        """The prompt with a new question at its end. Raises EngineError if the question alone does not fit."""
        self.messages.append({"role": "user", "content": question})
        while len(prompt := encode_chat(self._tokenizer, self.messages)) > self._longest:
            if len(self.messages) == 1:
                self.messages.clear()
                raise EngineError(f"a prompt of {len(prompt):,} tokens is longer than the {self._longest:,} that fit")
            del self.messages[:2]
        return prompt

    def answered(self, answer: str) -> None:
        """Notes the answer to the last question."""
        self.messages.append({"role": "assistant", "content": answer})
