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
        """The prompt with a new question at its end; a question that got no answer is forgotten.

        Raises EngineError if the question alone does not fit, or is not UTF-8. The conversation then stays as it was.
        """
        if any("\ud800" <= letter <= "\udfff" for letter in question):
            raise EngineError("the question is not UTF-8")
        unanswered = bool(self.messages) and self.messages[-1]["role"] == "user"
        messages = self.messages[:-1] if unanswered else self.messages[:]
        messages.append({"role": "user", "content": question})
        while len(prompt := encode_chat(self._tokenizer, messages)) > self._longest:
            if len(messages) == 1:
                raise EngineError(f"a prompt of {len(prompt):,} tokens is longer than the {self._longest:,} that fit")
            del messages[:2]
        self.messages = messages
        return prompt

    def answered(self, answer: str) -> None:
        """Notes the answer to the last question."""
        self.messages.append({"role": "assistant", "content": answer})
