"""Measures a server that speaks OpenAI's interface, such as serve.py, under many clients at the same time."""

import dataclasses
import itertools

from trm_jax import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.CommonOptions):
    model: str
    """The model's name, as the server has it."""
    url: str = "http://127.0.0.1:8000/v1"
    """Address of the server."""
    api_key: str | None = None
    """Its key, if it wants one."""
    data: str = "demo"
    """Questions: gsm8k (the hub's test split), demo, a hub id, or a file or folder of rows."""
    requests: int = 256
    """Questions to ask, after as many as there are clients to warm up."""
    clients: tuple[int, ...] = (1, 8, 32)
    """Clients at the same time, each of which asks again as soon as it has its answer."""
    max_tokens: int = 48
    """Tokens of the longest answer."""


def main(options: Options) -> None:
    from trm_jax.benchmark import Endpoint, measure_load
    from trm_jax.data import question_rows
    from trm_jax.errors import UserError

    options.require(1, "requests", "max_tokens")
    if not all(1 <= clients <= options.requests for clients in options.clients):
        raise UserError(
            f"--clients must be at least 1, and at most as many as there are --requests ({options.requests})"
        )
    rows = question_rows(options.data, "test", None, None)
    questions = [row["question"] for row in itertools.islice(itertools.cycle(rows), options.requests)]
    server = Endpoint(options.url.rstrip("/"), options.model, options.api_key)
    for clients in options.clients:
        measure_load(server, questions[:clients], clients, options.max_tokens)
        print(measure_load(server, questions, clients, options.max_tokens).describe(), flush=True)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
