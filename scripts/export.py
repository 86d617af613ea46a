"""Exports the trained part of a model, as others can read it, and uploads it to the Hugging Face hub if asked."""

import dataclasses
import pathlib

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.CommonOptions):
    checkpoint: pathlib.Path = pathlib.Path("runs/train")
    """Training folder, one checkpoint below it, or a model folder with an imported recursion."""
    model: pathlib.Path | None = None
    """Model folder of a run whose model was moved."""
    output: pathlib.Path = pathlib.Path("runs/export")
    """Folder to write; an export of the same weights that is there is written again, its model card stays."""
    backbone_too: bool = False
    """Write the backbone as well, as a Hugging Face folder that transformers loads."""
    push: str | None = None
    """Upload to this repository of the hub, USER/NAME, which is made if it is not there; private unless --public."""
    public: bool = False
    """Of --push: a repository that everybody can read."""


def main(options: Options) -> None:
    from trm_jax.checkpoints import SavedModel, open_folder
    from trm_jax.publishing import export, exported_files, push, require_name

    if options.push is not None:
        require_name(options.push)
    elif options.public:
        raise UserError("--public goes with --push: without it nothing is uploaded")
    model = open_folder(options.model).model if options.model else None
    print(export(SavedModel.open(options.checkpoint, model), options.output, options.backbone_too))
    if options.push is not None:
        print(f"uploaded to {push(options.output, exported_files(options.output), options.push, options.public)}")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
