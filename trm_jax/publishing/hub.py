"""Uploads an exported folder to the Hugging Face hub."""

import pathlib
import re
from collections.abc import Sequence

from trm_jax.conversion import TOKENIZER_FILES
from trm_jax.data import HubError, require_hub
from trm_jax.publishing.export import BACKBONE


def require_name(name: str) -> None:
    """Raises HubError unless a text is a name that a repository of the hub can have.

    Example: `require_name("user/trm-gsm8k")`.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise HubError(f"--push {name}: that is no USER/NAME, such as ada/trm-gsm8k")


def push(folder: pathlib.Path, files: Sequence[str], name: str, public: bool = False) -> str:
    """Uploads these files of a folder to the repository `name`, which is made, private unless `public`, if it is not there.

    A backbone and files of a tokenizer that the repository has from an earlier export, and that are not among the files,
    are removed. Returns the address. Raises HubError if the hub cannot be reached or refuses, and without `public` if
    everybody can read the repository.

    Example: `push(folder, exported_files(folder), "user/trm-gsm8k")`.
    """
    from huggingface_hub import HfApi

    require_hub(name)
    api = HfApi()
    try:
        address = api.create_repo(name, private=not public, exist_ok=True)
        if not public and not api.repo_info(name).private:
            raise HubError(f"{name} is there and everybody can read it: --public says that this is meant")
        said = "Exported by trm_jax"
        removed = [f"{BACKBONE}/*", *TOKENIZER_FILES]
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(files), delete_patterns=removed, commit_message=said
        )
    except HubError:
        raise
    except Exception as error:  # a connection that is lost is an error of the HTTP library in use
        raise HubError(f"{name} could not be uploaded: {error}") from None
    return str(address)
