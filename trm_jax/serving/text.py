"""The text of tokens that come one after the other."""

from collections.abc import Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of the beginning of a character


class TextStream:
    """Turns tokens into text piece by piece, up to the stop string that ends first, whatever tokens it is made of.

    What may be the beginning of a stop string, or of a character, is held back until the next tokens tell. The work for a
    token does not grow with the text: only the newest tokens are decoded, behind those before them, because the first of a
    text may be decoded in another way.

    Example: `text = TextStream(tokenizer, stops=["\\n\\n"]); print(text.add([1, 2, 3]) + text.end())`.
    """

    def __init__(self, tokenizer, stops: Sequence[str] = ()):
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._beginnings = {stop[:length] for stop in self._stops for length in range(1, len(stop))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._before: list[int] = []  # tokens that end with a whole character, and whose text is known
        self._newest: list[int] = []  # those behind them
        self._known = ""  # but for the beginning, which is sent
        self._sent = 0  # characters of it that are sent, too; more, where the newest tokens end within a character
        self.stopped = False

    def add(self, tokens: Sequence[int]) -> str:
        """The text that these tokens add, without special tokens; nothing more once it has `stopped`."""
        if self.stopped:
            return ""
        self._newest += tokens
        new = self._decode_newest()
        whole = new.rstrip(UNFINISHED)
        text = self._before_stop(self._known + whole)
        if new and new == whole:
            self._known += new
            self._before, self._newest = self._newest, []
        lengths = range(min(0 if self.stopped else self._longest, len(text)), 0, -1)
        held = next((length for length in lengths if text[-length:] in self._beginnings), 0)
        return self._send(text[: len(text) - held])

    def end(self) -> str:
        """What was held back, when no more tokens come."""
        return "" if self.stopped else self._send(self._before_stop(self._known + self._decode_newest()))

    def _decode_newest(self) -> str:
        def decode(tokens: list[int]) -> str:
            return self._tokenizer.decode(tokens, skip_special_tokens=True)

        return decode(self._before + self._newest)[len(decode(self._before)) :]

    def _before_stop(self, text: str) -> str:
        """The text up to the stop string that ends first; one that began in what is sent was held back."""
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop, self._sent)) >= 0]
        self.stopped = bool(found)
        return text[: min(found)[1]] if found else text

    def _send(self, text: str) -> str:
        new, self._sent = text[self._sent :], max(self._sent, len(text))
        done = min(self._sent, len(self._known))
        self._known, self._sent = self._known[done:], self._sent - done
        return new
