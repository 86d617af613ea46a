"""The bodies of requests: what OpenAI's interface allows, as far as the engine can do it."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from trm_jax.decoding import Sampling
from trm_jax.server.errors import BadRequestError

# Fields that clients send with values that ask for nothing. With any other value they are refused.
NOTHING_ASKED: dict[str, tuple] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "service_tier": ("auto", "default"),
    "metadata": ({},),
}
OF_MESSAGES = {"tool_calls": ([],), "annotations": ([],)}  # that come back with the message of a former answer
STOPS, STOP_LENGTH = 16, 256  # stop strings, and characters of each
PROMPTS, MESSAGES = 128, 1024  # at most, in one request
ALTERNATIVES = {  # in place of pydantic's words for fields that may be of several kinds
    "prompt": f"is no text, no texts, no tokens and no lists of tokens, of which there may be {PROMPTS}",
    "content": "is no text, and no list of parts of type text",
    "stop": f"is no text, and no list of up to {STOPS} texts, of 1 to {STOP_LENGTH} characters each",
}


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], pydantic.Field(fail_fast=True)]
    name: str = ""

    def plain(self) -> dict[str, str]:
        """The message as chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


Stop = Annotated[str, pydantic.Field(min_length=1, max_length=STOP_LENGTH)]


class _Request(_Strict):
    """What both kinds of requests have."""

    model: str
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    n: Annotated[int, pydantic.Field(ge=1, le=128)] = 1
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], pydantic.Field(max_length=STOPS, fail_fast=True)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str = ""

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def sampling(self) -> Sampling:
        """How tokens are drawn; without a seed each call is another draw."""
        seed = secrets.randbits(63) if self.seed is None else self.seed % 2**64
        return Sampling(self.temperature, self.top_p, seed)


class ChatRequest(_Request):
    """A body for /v1/chat/completions."""

    messages: Annotated[list[Message], pydantic.Field(min_length=1, max_length=MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


Tokens = Annotated[list[int], pydantic.Field(min_length=1, fail_fast=True)]
SOME_PROMPTS = pydantic.Field(min_length=1, max_length=PROMPTS, fail_fast=True)


class CompletionRequest(_Request):
    """A body for /v1/completions."""

    prompt: str | Tokens | Annotated[list[str], SOME_PROMPTS] | Annotated[list[Tokens], SOME_PROMPTS]

    @property
    def limit(self) -> int:
        return 16 if self.max_tokens is None else self.max_tokens  # OpenAI's default

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


def parse(content: bytes, kind: type[_Request]):
    """The body of a request. Raises BadRequestError, which names the field.

    Example: `parse(b'{"model": "gsm8k", "prompt": "2 + 2 ="}', CompletionRequest).prompts`.
    """
    try:
        text = content.decode()
        body = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequestError("the body is not a JSON object")
    try:
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequestError("a text holds half of a surrogate pair, which is no character") from None
    try:
        return kind.model_validate(_asked(body))
    except pydantic.ValidationError as error:
        raise _bad_request(error.errors(include_url=False, include_input=False, include_context=False)) from None


def _bad_request(faults: Sequence[Mapping[str, Any]]) -> BadRequestError:
    """One of pydantic's faults, for the client: in a message the field that is not supported, which explains the others."""
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault = next((fault for fault in unknown if len(fault["loc"]) > 1), faults[0])
    where, said = list(fault["loc"]), "is not supported" if fault in unknown else fault["msg"]
    for place, name in enumerate(where[:-1]):
        if name in ALTERNATIVES:  # behind it pydantic names the kind that it tried
            if fault in unknown:
                del where[place + 1]
            else:
                where, said = where[: place + 1], ALTERNATIVES[name]
            break
    return BadRequestError(f"{'.'.join(map(str, where))}: {said}", str(where[0]))


def _refuse(constant: str):
    raise ValueError(f"{constant} is no number")


def _asked(body: dict[str, Any]) -> dict[str, Any]:
    """The fields that ask for something. Null stands for a default everywhere."""
    asked = _without(body, NOTHING_ASKED)
    if isinstance(messages := body.get("messages"), list):
        asked["messages"] = [_asked_of_message(one) if isinstance(one, dict) else one for one in messages]
    if isinstance(options := body.get("stream_options"), dict):
        asked["stream_options"] = _without(options, {})
    return asked


def _asked_of_message(message: dict[str, Any]) -> dict[str, Any]:
    asked = _without(message, OF_MESSAGES)
    if isinstance(parts := message.get("content"), list):
        asked["content"] = [_without(part, {}) if isinstance(part, dict) else part for part in parts]
    return asked


def _without(fields: dict[str, Any], neutral: Mapping[str, tuple]) -> dict[str, Any]:
    """The fields but for null and those whose values are `neutral`, where 0 is 0.0 but not false."""

    def is_neutral(name: str, value: Any) -> bool:
        same = (one for one in neutral.get(name, ()) if isinstance(one, bool) == isinstance(value, bool))
        return value is None or any(one == value for one in same)

    return {name: value for name, value in fields.items() if not is_neutral(name, value)}
