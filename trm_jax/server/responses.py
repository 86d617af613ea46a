"""The objects that OpenAI's interface answers with: whole, or as the events of a stream."""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol


class Finished(NamedTuple):
    """A completion that has ended."""

    text: str
    end: str  # "stop" or "length"


class Form(Protocol):
    """The objects of one kind of request. Each of them has the identity of the request that it answers."""

    def whole(self, choices: Sequence[Finished], usage: dict[str, int]) -> dict[str, Any]:
        """The object that answers a request which is not streamed."""

    def first(self, count: int) -> Iterable[dict[str, Any]]:
        """What a stream begins with, for so many completions."""

    def delta(self, choice: int, text: str, end: str | None) -> dict[str, Any]:
        """A piece of a completion; with `end` the last one."""

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The tokens, at the end of a stream that was asked for them."""


class _Identity:
    prefix, kind, stream_kind = "", "", ""

    def __init__(self, model: str):
        self._model, self._id, self._created = model, f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    def _object(self, kind: str, choices: Sequence[dict[str, Any]], **fields) -> dict[str, Any]:
        same = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return same | {"choices": choices} | fields

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        return self._object(self.stream_kind, [], usage=usage)


class ChatForm(_Identity):
    """Of /v1/chat/completions."""

    prefix, kind, stream_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def whole(self, choices: Sequence[Finished], usage: dict[str, int]) -> dict[str, Any]:
        return self._object(
            self.kind,
            [
                {
                    "index": number,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": choice.end,
                }
                for number, choice in enumerate(choices)
            ],
            usage=usage,
        )

    def first(self, count: int) -> Iterable[dict[str, Any]]:
        return [self._chunk(choice, {"role": "assistant", "content": ""}, None) for choice in range(count)]

    def delta(self, choice: int, text: str, end: str | None) -> dict[str, Any]:
        return self._chunk(choice, {"content": text} if text else {}, end)

    def _chunk(self, choice: int, delta: dict[str, str], end: str | None) -> dict[str, Any]:
        fields = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": end}
        return self._object(self.stream_kind, [fields])


class CompletionForm(_Identity):
    """Of /v1/completions."""

    prefix, kind, stream_kind = "cmpl", "text_completion", "text_completion"

    def whole(self, choices: Sequence[Finished], usage: dict[str, int]) -> dict[str, Any]:
        return self._object(self.kind, [self._choice(*each) for each in enumerate(choices)], usage=usage)

    def first(self, count: int) -> Iterable[dict[str, Any]]:
        return []

    def delta(self, choice: int, text: str, end: str | None) -> dict[str, Any]:
        return self._object(self.stream_kind, [self._choice(choice, Finished(text, end))])

    def _choice(self, number: int, choice: Finished) -> dict[str, Any]:
        return {"index": number, "text": choice.text, "logprobs": None, "finish_reason": choice.end}


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    """The tokens of a request, as OpenAI counts them. Example: `usage_of(prompt=12, completion=30)`."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(content: dict[str, Any] | str) -> bytes:
    """A server-sent event. Example: `event("[DONE]")`."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
