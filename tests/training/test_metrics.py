"""The metrics file: whose seconds are whose, and what a killed run left in it."""

import types

import numpy as np

from trm_jax.data.loader import Batch
from trm_jax.training import metrics
from trm_jax.training.step import Metrics


def test_seconds_of_a_batch_reach_from_the_one_before_and_leave_out_other_work(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    log = metrics.MetricsLog(tmp_path, 0, np.full(6, 1e-3), 0, places=[])

    def checkpoint():
        now[0] += 50
        return {"held_out_loss": [1.0]}

    def batch_of(number):
        return metrics.TrainedBatch(number, batch(), 2, numbers(), started=now[0])

    first = batch_of(1)
    now[0] += 2
    log.add(first)  # under way until the next is added
    second = batch_of(2)
    now[0] += 3
    log.add(second)
    now[0] += 7
    assert log.flush(checkpoint) == {"held_out_loss": [1.0]}
    third = batch_of(3)
    now[0] += 11
    log.add(third)
    log.flush()
    assert log.flush() == {}  # nothing is written twice
    found = metrics.read_metrics(tmp_path / "timings.jsonl")
    assert [record["seconds"] for record in found] == [5, 7, 11]
    assert [record["tokens_per_second"] for record in found] == [4 / 5, 4 / 7, 4 / 11]


def test_lines_behind_the_checkpoint_and_torn_lines_are_written_again(tmp_path):
    for name in (metrics.METRICS, metrics.TIMINGS):
        (tmp_path / name).write_text('{"batch": 1}\n{"batch": 2}\n{"batch": 3}\n{"batch": 4, "lo')
    metrics.MetricsLog(tmp_path, 2, np.zeros(1), 4, places=[])
    for name in (metrics.METRICS, metrics.TIMINGS):
        assert metrics.read_metrics(tmp_path / name) == [{"batch": 1}, {"batch": 2}]


def batch() -> Batch:
    """One row of four tokens, two of them labels."""
    tokens = np.arange(8).reshape(1, 1, 8)
    return Batch(tokens, np.array([[[1, 2]]]), np.array([[[2, 3]]]))


def numbers() -> Metrics:
    return Metrics(*[np.ones(2)] * 5, fault=np.full(2, -1))
