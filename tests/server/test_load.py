"""The clients that measure a server."""

import pytest

from trm_jax.benchmark import Endpoint, LoadError, measure_load
from trm_jax.demo import problems

QUESTIONS = [row["question"] for row in problems.split("test")[:9]]


def test_every_question_is_asked_once_and_its_answer_timed(running):
    load = measure_load(Endpoint(f"{running.url}/v1", "demo", "secret"), QUESTIONS, clients=4, max_tokens=12)
    assert len(load.answers) == 9
    assert all(0 < answer.first <= answer.whole <= load.seconds for answer in load.answers)
    assert all(0 < answer.tokens <= 12 for answer in load.answers)
    assert load.describe().startswith("4 clients, 9 answers in ")


def test_a_server_that_refuses_or_is_not_there_is_an_error(running):
    for url, key, message in [
        (f"{running.url}/v1", "wrong", "answers with 401"),
        (f"{running.url}/v2", "secret", "answers with 404"),
        ("http://127.0.0.1:9/v1", "secret", "cannot be asked: .*refused"),
    ]:
        with pytest.raises(LoadError, match=message):
            measure_load(Endpoint(url, "demo", key), QUESTIONS[:2], clients=2, max_tokens=4)
