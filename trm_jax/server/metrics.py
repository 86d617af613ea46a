"""What the server has done, and is at, in the form that Prometheus reads."""

import prometheus_client as prometheus

from trm_jax.hardware import compilations
from trm_jax.serving import Engine


class Metrics:
    """Counters of one server.

    Example: `Metrics(engine).requests.labels("/v1/models", "200").inc()`.
    """

    content_type = prometheus.CONTENT_TYPE_LATEST

    def __init__(self, engine: Engine):
        self._registry = registry = prometheus.CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(name, meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> prometheus.Gauge:
            return prometheus.Gauge(name, meaning, labels, registry=registry)

        self.requests = counter("trm_requests", "Requests that were answered.", "path", "status")
        self.cut_off = counter("trm_requests_cut_off", "Requests whose client went away before the end.")
        self.prompt_tokens = counter("trm_prompt_tokens", "Tokens of prompts that were taken.")
        self.completion_tokens = counter("trm_completion_tokens", "Tokens that were generated.")
        self.first_token = prometheus.Histogram(
            "trm_time_to_first_token_seconds", "From the request to its first text.", registry=registry
        )
        gauge("trm_requests_waiting", "Requests that wait for a row.").set_function(lambda: engine.waiting)
        gauge("trm_rows", "Rows of each model.").set(engine.rows)
        busy = gauge("trm_rows_busy", "Rows at work.", "head")
        for head in engine.busy:
            busy.labels(head).set_function(lambda head=head: engine.busy[head])
        prometheus.ProcessCollector(registry=registry)
        seconds, before = compilations(), len(compilations())
        gauge("trm_programs_compiled", "Programs that requests had to wait for.").set_function(
            lambda: len(seconds) - before
        )

    def text(self) -> bytes:
        return prometheus.generate_latest(self._registry)
