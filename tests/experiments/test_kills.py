"""What is left when a process is killed, as kill_runs.py looks at it."""

from trm_jax.experiments.kills import saved_model


def test_a_conversion_that_was_killed_is_no_model_yet(tmp_path):
    (tmp_path / "model/.converting/backbone").mkdir(parents=True)
    assert saved_model(tmp_path / "model") == saved_model(tmp_path / "none") == 0
