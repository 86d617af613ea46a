"""Puts a model behind an address that OpenAI's clients understand. Without options: the demo run of train.py."""

import dataclasses
import pathlib
from typing import Literal

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.ComputeOptions):
    checkpoint: str = "runs/train"
    """Training folder, one checkpoint below it, a model folder, an exported folder, or USER/NAME[@REVISION] on the hub."""
    model: pathlib.Path | None = None
    """Model folder with the backbone, for an exported model (default: found, or fetched) or a run whose model was moved."""
    name: str | None = None
    """What clients call the model (default: that of the checkpoint's folder, or on the hub); NAME:backbone leaves the
    recursion out."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine's own need --api-key."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key: str | None = None
    """Key that clients must send."""
    rows: int | None = None
    """Completions generated together, by each of the two heads (default: as many as fit, at most 64, on a CPU 8)."""
    max_length: int = 2048
    """Tokens of the longest prompt and its answer together, at most the backbone's."""
    max_new_tokens: int = 512
    """Tokens of an answer in a chat where a request does not say."""
    queue: int = 256
    """Completions that may wait for a row; a request for more is refused."""
    warm: bool = False
    """Compile at the start every program that requests can need, so that none has to wait for one."""
    supervision_steps: int | None = None
    """Supervision steps a token (default: as trained)."""
    kv_cache: Literal["last_pass", "per_pass"] | None = None
    """Keys and values of the last pass only, or of every pass, which is exact (default: the model's)."""
    early_exit: float | None = None
    """End a token's supervision steps once its distribution moves by less than this, in nats (default: never)."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the trained weights, or these themselves."""


def main(options: Options) -> None:
    options.require(1, "rows", "max_new_tokens", "supervision_steps")
    options.require(2, "max_length")
    options.require(0, "queue", "port")
    try:
        from trm_jax.server import Served, make_app, open_socket, require_key, run
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'trm-jax[serve]'") from None
    from trm_jax.model import for_decoding
    from trm_jax.publishing import open_checkpoint
    from trm_jax.serving import Engine, head_config

    require_key(options.host, options.api_key)
    with open_socket(options.host, options.port) as listening:
        dtype = options.prepare()  # before a backbone of the hub is converted, which starts JAX
        saved = open_checkpoint(options.checkpoint, options.model)
        name = options.name or saved.name
        model = for_decoding(saved.load(dtype, use_ema=options.weights == "ema"), donate=True)
        settings = {name: getattr(options, name) for name in ("supervision_steps", "kv_cache", "early_exit")}
        configs = {head: head_config(model, head, **settings) for head in ("trm", "backbone")}
        longest = min(options.max_length, model.backbone.config.max_length)
        with Engine(model, configs, longest, options.rows, options.queue, options.warm) as engine:
            heads = {name: "trm", f"{name}:backbone": "backbone"}
            app = make_app(Served(engine, saved.tokenizer, heads, options.max_new_tokens, options.api_key))
            host, port = listening.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
            print(f"{address}: {', '.join(heads)}; {engine.rows} rows of {engine.capacity} tokens each", flush=True)
            run(app, listening, engine)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
