"""The Hugging Face hub: whether it can be reached, which is told at once, and files of its models."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Self

from trm_jax.errors import UserError

TIMEOUT = 5  # seconds


class HubError(UserError):
    """The hub does not have something or cannot be reached; the message says what can be used instead."""


def require_hub(wanted: str) -> None:
    """Raises HubError if the hub does not answer; its own libraries would try again for half a minute.

    With HF_HUB_OFFLINE=1 the hub is not asked: what was downloaded before is used.

    Example: `require_hub("Qwen/Qwen2.5-0.5B")`.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # its type depends on the HTTP library in use
        raise HubError(
            f"{wanted!r} is not here, and {constants.ENDPOINT} cannot be reached ({error}): give a local folder or file, or "
            "set HF_HUB_OFFLINE=1 to use what was downloaded before"
        ) from None


@dataclasses.dataclass(frozen=True)
class HubModel:
    """A model of the hub, at a revision.

    Example: `HubModel.named("Qwen/Qwen2.5-Math-1.5B-Instruct").fetch(["config.json"])`.
    """

    id: str
    revision: str | None = None  # a commit, branch or tag; None is the newest

    @classmethod
    def named(cls, name: str) -> Self | None:
        """The model that `user/name` or `user/name@revision` names; None if a text is no such name."""
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
        return found and cls(*found.groups())

    @classmethod
    def at(cls, folder: pathlib.Path) -> Self | None:
        """The model and commit whose files a folder of the hub's own cache holds; None for any other folder."""
        found = re.fullmatch(r"models--(.+?)--(.+)/snapshots/([0-9a-f]{40})", "/".join(folder.absolute().parts[-3:]))
        return found and cls(f"{found[1]}/{found[2]}", found[3])

    @classmethod
    def from_json(cls, values: Any) -> Self | None:
        """Makes it from the `base_model` of a JSON file; None for null. Raises HubError if it is neither."""
        if values is None:
            return None
        if not isinstance(values, dict) or not isinstance(values.get("revision"), str):
            raise HubError(f"the base model is {values!r:.80}; it must have an id and a revision")
        if (found := cls.named(f"{values.get('id')}@{values['revision']}")) is None:
            raise HubError(f"the base model is {values!r:.80}, which is no name and revision of the hub")
        return found

    def fetch(self, files: Sequence[str]) -> pathlib.Path:
        """The folder with those of the model's files that fit one of these patterns, downloaded. Raises HubError.

        Patterns without a slash are of the top folder alone: repositories have checkpoints and copies in others below it.
        """
        from huggingface_hub import errors, snapshot_download

        require_hub(str(self))
        ignored = None if any("/" in pattern for pattern in files) else ["*/*"]
        try:
            folder = snapshot_download(
                self.id, revision=self.revision, allow_patterns=list(files), ignore_patterns=ignored
            )
        except errors.RevisionNotFoundError:
            raise HubError(f"{self.id!r} has no revision {self.revision!r} on the hub") from None
        except Exception as error:  # a connection that is lost is an error of the HTTP library in use
            raise HubError(f"{str(self)!r} is not a folder here and cannot be had from the hub: {error}") from None
        return pathlib.Path(folder)

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"
