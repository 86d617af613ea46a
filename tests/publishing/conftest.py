"""Models with every kind of recursion on the demo's backbone, and their exports."""

import pathlib

import pytest

from tests.support.publishing import imported
from trm_jax.checkpoints import SavedModel
from trm_jax.publishing import export


@pytest.fixture(scope="session", params=["mathllm", "residual", "untied"])
def exported(request, demo_model_folder, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """A model folder with an imported recursion, and the export of it, with the backbone."""
    root = tmp_path_factory.mktemp(request.param)
    imported(request.param, demo_model_folder, root / "model")
    export(SavedModel.open(root / "model"), root / "export", backbone_too=True)
    return root / "model", root / "export"
