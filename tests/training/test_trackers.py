"""Trackers get what metrics.jsonl gets."""

import sys
import types

import pytest

from trm_jax.training.trackers import TrackerError, flatten, open_tracker


def test_every_number_has_a_name():
    assert flatten({"batch": 3, "loss": [2.0, 1.0], "peak": None}) == {"batch": 3, "loss/1": 2.0, "loss/2": 1.0}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_share_an_interface(tmp_path, monkeypatch, name):
    """A stand-in module, because neither is installed with the tests."""
    calls = []
    module = types.SimpleNamespace(
        init=lambda **options: calls.append(options),
        log=lambda numbers, step: calls.append((numbers, step)),
        finish=lambda: calls.append("end"),
    )
    monkeypatch.setitem(sys.modules, name, module)
    with open_tracker(name, tmp_path / "run", {"seed": 1}) as tracker:
        tracker.log({"loss/1": 0.5}, 7)
    assert calls[0]["config"] == {"seed": 1}
    assert calls[0]["name"].startswith("run")
    assert calls[1:] == [({"loss/1": 0.5}, 7), "end"]
    for folder in ("run", "other/run"):
        with open_tracker(name, tmp_path / folder, {}):
            pass
    same, other = calls[3], calls[5]
    what_resumes = "id" if name == "wandb" else "name"
    assert calls[0][what_resumes] == same[what_resumes] != other[what_resumes]


def test_tensorboard_gets_an_event_file(tmp_path):
    pytest.importorskip("tensorboardX")
    with open_tracker("tensorboard", tmp_path, {}) as tracker:
        tracker.log({"loss/1": 0.5}, 7)
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss/1" in file.read_bytes()


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackerError, match=r"trm-jax\[wandb\]"), open_tracker("wandb", tmp_path, {}):
        pass


def test_a_tracker_that_cannot_start_is_named(tmp_path, monkeypatch):
    """As wandb without a login, where nobody can be asked for it."""

    def init(**options):
        raise ValueError("api_key not configured (no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(TrackerError, match=r"--track wandb cannot start.*no-tty"), open_tracker("wandb", tmp_path, {}):
        pass


def test_no_tracker_is_none(tmp_path):
    with open_tracker("none", tmp_path, {}) as tracker:
        assert tracker is None


def test_a_tracker_is_closed_however_the_run_ends(tmp_path, monkeypatch):
    """A run that died of bad numbers left its last lines unsent."""
    ends = []
    module = types.SimpleNamespace(init=lambda **options: None, finish=lambda: ends.append("end"))
    monkeypatch.setitem(sys.modules, "trackio", module)
    with pytest.raises(KeyboardInterrupt), open_tracker("trackio", tmp_path, {}):
        raise KeyboardInterrupt
    assert ends == ["end"]
