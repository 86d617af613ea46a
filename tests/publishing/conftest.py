"""Models with every kind of recursion on the demo's backbone, and their exports."""

import pathlib

import pytest

from tests.support.publishing import FolderHub, imported
from trm_jax.checkpoints import SavedModel
from trm_jax.publishing import export


@pytest.fixture(scope="session", params=["mathllm", "residual", "untied"])
def exported(request, demo_model_folder, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """A model folder with an imported recursion, and the export of it, with the backbone."""
    root = tmp_path_factory.mktemp(request.param)
    imported(request.param, demo_model_folder, root / "model")
    export(SavedModel.open(root / "model"), root / "export", backbone_too=True)
    return root / "model", root / "export"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FolderHub:
    """An empty hub, and an empty cache of this package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub = FolderHub(tmp_path / "hub")
    hub.take_over(monkeypatch)
    return hub
