"""Models to export, and a hub that lies in a folder."""

import fnmatch
import hashlib
import pathlib
import shutil
import types
import unittest.mock
from collections.abc import Iterable

import huggingface_hub
from huggingface_hub import constants, errors

from tests.support.models import randomize
from trm_jax.checkpoints import load_backbone, open_folder, save_model
from trm_jax.config import TRMConfig
from trm_jax.conversion.hugging_face import hugging_face_keys
from trm_jax.data import HubModel
from trm_jax.model import named_weights, new_trm


def imported(kind: str, source: pathlib.Path, folder: pathlib.Path, base_model: HubModel | None = None) -> None:
    """Writes a model folder with the backbone of `source` and a random recursion, whose moving average differs from it."""
    loops = dict(latent_updates=2, recursions=2, supervision_steps=3)
    config = (
        TRMConfig.residual(tied=False, rope_theta=500.0, **loops)
        if kind == "untied"
        else TRMConfig.preset(kind, **loops)
    )
    model = open_folder(source).model
    backbone = load_backbone(model)
    # Little noise: PyTorch and JAX round differently, and a plain block magnifies that in every call.
    trm = randomize(new_trm(backbone, config), seed=3, scale=0.05)
    weights = named_weights(backbone)
    in_order = [
        (name, weights[name]) for name in hugging_face_keys(backbone.config)
    ]  # as at conversion: the fingerprint's
    folder.mkdir(parents=True)
    save_model(folder, model.backbone_config, in_order, trm, randomize(trm, seed=4, scale=0.05), base_model)
    shutil.copytree(source / "tokenizer", folder / "tokenizer")


class FolderHub:
    """A stand-in for the hub, at the level of `huggingface_hub.snapshot_download` and `HfApi`, without any HTTP.

    Repositories lie in one folder, what is fetched in another that is laid out as the hub's own cache.
    """

    def __init__(self, root: pathlib.Path):
        self.root, self.public, self.fetched = root, {}, []

    def take_over(self, monkeypatch) -> None:
        """Makes this process ask this hub in place of the real one."""
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # nothing looks for the real one
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        api = type("HfApi", (), {"__new__": lambda cls: self})  # a class, which annotations of other libraries name
        monkeypatch.setattr(huggingface_hub, "HfApi", api)

    def put(self, name: str, folder: pathlib.Path) -> str:
        """A repository with the files of a folder. Returns its only commit."""
        shutil.copytree(folder, self.root / "repositories" / name)
        return self.commit(name)

    @staticmethod
    def commit(name: str) -> str:
        return hashlib.sha1(name.encode()).hexdigest()

    def snapshot_download(self, name, revision=None, allow_patterns=(), ignore_patterns=None):
        repository = self.root / "repositories" / name
        if not repository.is_dir():
            raise OSError(f"404 for {name}")
        if revision not in (None, "main", self.commit(name)):
            raise errors.RevisionNotFoundError("404", response=unittest.mock.Mock())
        snapshot = self.root / f"cache/models--{name.replace('/', '--')}/snapshots/{self.commit(name)}"
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in repository.rglob("*"):
            own = path.relative_to(repository).as_posix()
            if path.is_file() and _fits(own, allow_patterns) and not _fits(own, ignore_patterns or ()):
                (snapshot / own).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, snapshot / own)
                self.fetched.append(f"{name}/{own}")
        return str(snapshot)

    def create_repo(self, name, private, exist_ok):
        assert exist_ok
        self.public.setdefault(name, not private)
        (self.root / "repositories" / name).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{name}"

    def repo_info(self, name):
        return types.SimpleNamespace(private=not self.public[name])

    def upload_folder(self, repo_id, folder_path, allow_patterns, delete_patterns, commit_message):
        repository = self.root / "repositories" / repo_id
        for path in list(repository.rglob("*")):
            if path.is_file() and _fits(path.relative_to(repository).as_posix(), delete_patterns):
                path.unlink()
        for name in allow_patterns:
            (repository / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder_path / name, repository / name)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
