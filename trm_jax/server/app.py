"""The application: its paths, who may call them, and what becomes of a client that goes away."""

import asyncio
import concurrent.futures
import dataclasses
import functools
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trm_jax import decoding
from trm_jax.data import encode_chat
from trm_jax.server.connection import Events, is_here, read_body, unless_gone
from trm_jax.server.errors import (
    ApiError,
    BadRequestError,
    BusyError,
    EndingError,
    TooLongError,
    UnknownModelError,
    WrongHostError,
    WrongKeyError,
)
from trm_jax.server.generation import Generation, Part
from trm_jax.server.metrics import Metrics
from trm_jax.server.requests import ChatRequest, CompletionRequest, parse
from trm_jax.server.responses import ChatForm, CompletionForm, Finished, Form, event, usage_of
from trm_jax.serving import EndedError, Engine, FullError


@dataclasses.dataclass(frozen=True)
class Served:
    """What is served: models by the names that clients give, each of which is a head of the engine."""

    engine: Engine
    tokenizer: Any
    heads: Mapping[str, str]
    max_new_tokens: int  # of an answer in a chat, where a request does not say
    key: str | None = None  # that clients must send; None: nobody needs one


def make_app(served: Served) -> Starlette:
    """The application that answers for these models.

    Example: `uvicorn.run(make_app(Served(engine, tokenizer, {"gsm8k": "trm"}, max_new_tokens=512)))`.
    """
    return _App(served).starlette()


class _App:
    def __init__(self, served: Served):
        self._served, self._metrics, self._started = served, Metrics(served.engine), int(time.time())
        # One thread reads requests: a long one does not stop the event loop, and two do not share a tokenizer.
        self._reader = concurrent.futures.ThreadPoolExecutor(1, "reader")

    def starlette(self) -> Starlette:
        def route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str = "GET") -> Route:
            return Route(path, self._guarded(path, handler), methods=[method])

        return Starlette(
            routes=[
                Route("/health", self._health),
                route("/metrics", self._show_metrics),
                route("/v1/models", self._models),
                route("/v1/models/{name:path}", self._model),
                route("/v1/chat/completions", self._chat, "POST"),
                route("/v1/completions", self._complete, "POST"),
            ],
            exception_handlers={HTTPException: _no_such_path, 500: _fault},
        )

    def _guarded(self, path: str, handler):
        """The handler for those who have the key, whose errors are told in OpenAI's form, and which is counted."""

        @functools.wraps(handler)
        async def guarded(request: Request) -> Response:
            status = "500"
            try:
                self._require_right(request)
                response = await handler(request)
                status = str(response.status_code)
                return response
            except ApiError as error:
                status = str(error.status)
                # A body that was not read to its end is not waited for.
                headers = {"Connection": "close"} | ({"Retry-After": "1"} if isinstance(error, BusyError) else {})
                return JSONResponse(error.to_json(), error.status, headers)
            except ClientDisconnect:
                self._metrics.cut_off.inc()
                status = "gone"
                return Response(status_code=400)  # which nobody reads
            finally:
                self._metrics.requests.labels(path, status).inc()

        return guarded

    def _require_right(self, request: Request) -> None:
        """Raises ApiError unless the client has the key. Where nobody needs one, it must call this machine by its own name.

        For a page of the web can have its own name resolved to this machine, and is then no stranger to a browser.
        """
        if (key := self._served.key) is None:
            if not is_here(request.url.hostname):
                raise WrongHostError(
                    f"this server is not {request.url.hostname}; without --api-key it is localhost alone"
                )
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
            raise WrongKeyError("this server wants its key as `Authorization: Bearer KEY`")

    async def _health(self, request: Request) -> Response:
        failure = self._served.engine.failure
        return JSONResponse({"status": "failed" if failure else "ok"}, 503 if failure else 200)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=self._metrics.content_type)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._describe(name) for name in self._served.heads]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._head(name)
        return JSONResponse(self._describe(name))

    def _describe(self, name: str) -> dict[str, Any]:
        limit = {"max_model_len": self._served.engine.capacity}  # as vLLM tells it
        return {"id": name, "object": "model", "created": self._started, "owned_by": "trm_jax"} | limit

    def _head(self, name: str) -> str:
        if name not in self._served.heads:
            raise UnknownModelError(
                f"there is no model {name[:100]!r}; there are {', '.join(self._served.heads)}", "model"
            )
        return self._served.heads[name]

    async def _chat(self, request: Request) -> Response:
        started = time.perf_counter()
        asked = await self._read(parse, await read_body(request), ChatRequest)
        head = self._head(asked.model)
        messages = [message.plain() for message in asked.messages]
        prompt = await self._read(self._encoded, "messages", lambda tokenizer: encode_chat(tokenizer, messages))
        return await self._answer(request, started, asked, head, [prompt], ChatForm(asked.model))

    async def _complete(self, request: Request) -> Response:
        started = time.perf_counter()
        asked = await self._read(parse, await read_body(request), CompletionRequest)
        head, prompts = self._head(asked.model), asked.prompts
        if isinstance(prompts[0], str):
            encode = lambda tokenizer: tokenizer(prompts, verbose=False)["input_ids"]  # noqa: E731
            prompts = await self._read(self._encoded, "prompt", encode)
        return await self._answer(request, started, asked, head, prompts, CompletionForm(asked.model))

    async def _read(self, function: Callable, *arguments) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reader, function, *arguments)

    def _encoded(self, field: str, encode: Callable[[Any], Any]) -> Any:
        """Tokens of what a client sent. Raises BadRequestError where the tokenizer, or its chat template, refuses it."""
        try:
            return encode(self._served.tokenizer)
        except Exception as error:  # templates refuse in their own words, tokenizers in theirs
            raise BadRequestError(f"{field} cannot be read: {error}", field) from None

    async def _answer(
        self,
        request: Request,
        started: float,
        asked: ChatRequest | CompletionRequest,
        head: str,
        prompts: Sequence[Sequence[int]],
        form: Form,
    ) -> Response:
        generation = self._submit(asked, head, prompts)
        self._metrics.prompt_tokens.inc(generation.prompt_tokens)
        parts = self._counted(generation, started)
        if asked.stream:
            events = _events(parts, generation, form, asked.stream_options.include_usage)
            return Events(events, generation, self._metrics.cut_off.inc)
        try:
            choices = await unless_gone(request, _whole(parts, generation.count))
        except EndedError as error:
            raise EndingError(str(error)) from None
        finally:
            generation.cancel()
        usage = usage_of(generation.prompt_tokens, generation.completion_tokens)
        return JSONResponse(form.whole(choices, usage))

    def _submit(self, asked, head: str, prompts: Sequence[Sequence[int]]) -> Generation:
        engine, requests = self._served.engine, []
        if (count := len(prompts) * asked.n) > (most := engine.rows + engine.most_waiting):
            raise BadRequestError(
                f"{count} completions in one request are more than the {most} that can be there at once"
            )
        for prompt in prompts:
            left = engine.capacity - len(prompt)
            limit = asked.limit or min(self._served.max_new_tokens, left)
            if limit > left or left < 1:
                raise TooLongError(
                    f"a prompt of {len(prompt):,} tokens and {asked.limit or 1:,} new ones are more than the "
                    f"{engine.capacity:,} that fit"
                )
            requests.append(decoding.Request(prompt, limit, asked.sampling(), asked.n))
        try:
            return Generation(engine, head, requests, self._served.tokenizer, asked.stops)
        except FullError as error:
            raise BusyError(str(error)) from None
        except EndedError as error:
            raise EndingError(str(error)) from None
        except ValueError as error:  # GenerationError or EngineError
            raise BadRequestError(str(error)) from None

    async def _counted(self, generation: Generation, started: float) -> AsyncIterator[Part]:
        """The parts, whose tokens the metrics count."""
        counted = 0
        async for part in generation:
            if not counted:
                self._metrics.first_token.observe(time.perf_counter() - started)
            counted, before = generation.completion_tokens, counted
            self._metrics.completion_tokens.inc(counted - before)
            yield part


async def _whole(parts: AsyncIterator[Part], count: int) -> list[Finished]:
    texts, ends = [""] * count, [""] * count
    async for part in parts:
        texts[part.choice] += part.text
        ends[part.choice] = part.end
    return list(map(Finished, texts, ends))


async def _events(
    parts: AsyncIterator[Part], generation: Generation, form: Form, with_usage: bool
) -> AsyncIterator[bytes]:
    for begin in form.first(generation.count):
        yield event(begin)
    try:
        async for part in parts:
            if part.text or part.end:
                yield event(form.delta(*part))
    except EndedError as error:
        yield event(EndingError(str(error)).to_json())
        return
    if with_usage:
        yield event(form.usage(usage_of(generation.prompt_tokens, generation.completion_tokens)))
    yield event("[DONE]")


async def _no_such_path(request: Request, error: HTTPException) -> Response:
    fault = BadRequestError(f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(fault.to_json(), error.status_code, error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError("a fault of the server; its log says which").to_json(), 500)
