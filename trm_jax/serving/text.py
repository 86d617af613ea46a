"""The text of tokens that come one after the other."""

from collections.abc import Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of the beginning of a character


class TextStream:
    """Turns tokens into text piece by piece, up to the stop string that ends first, whatever tokens it is made of.

    What may be the beginning of a stop string, or of a character, is held back until the next tokens tell.

    Example: `text = TextStream(tokenizer, stops=["\\n\\n"]); print(text.add([1, 2, 3]) + text.end())`.
    """

    def __init__(self, tokenizer, stops: Sequence[str] = ()):
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._sent = 0  # characters
        self.stopped = False

    def add(self, tokens: Sequence[int]) -> str:
        """The text that these tokens add, without special tokens; nothing more once it has `stopped`."""
        self._tokens += tokens
        text = self._text().rstrip(UNFINISHED)
        beginnings = () if self.stopped else (stop[:length] for stop in self._stops for length in range(1, len(stop)))
        held = max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)
        return self._send(text[: len(text) - held])

    def end(self) -> str:
        """What was held back, when no more tokens come."""
        return self._send(self._text())

    def _text(self) -> str:
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        self.stopped = bool(found)
        return text[: min(found)[1]] if found else text

    def _send(self, text: str) -> str:
        new, self._sent = text[self._sent :], max(self._sent, len(text))
        return new
