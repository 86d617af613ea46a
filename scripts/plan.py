"""What a training or an evaluation would need of a GPU, and what bounds its speed; without a GPU and without weights."""

import dataclasses
import pathlib
from typing import Literal

from trm_jax import cli
from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.errors import UserError

Gpu = Literal["h200", "h100", "a100-80", "a100-40", "l40s", "rtx4090", "rtx3090", "a10", "l4"]
Size = Literal["demo", "width-128", "width-512", "qwen2.5-0.5b", "qwen2.5-math-1.5b", "qwen2.5-math-7b"]
RENAMED = {"frozen_head": "freeze_head"}
TRMOptions = cli.options_of(
    TRMConfig, leave_out=["tied", "rope_theta"], renamed=RENAMED, chosen_by_preset=TRMConfig.preset_fields()
)
COUNTS = "batch_size", "gpus", "max_length", "accumulation", "max_new_tokens"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(TRMOptions, cli.CommonOptions):
    config: Size = "qwen2.5-math-1.5b"
    """Dimensions of the backbone."""
    model: str | None = None
    """In place of --config: a model folder, a Hugging Face folder or a hub id, of which only the config is read."""
    gpu: Gpu = "h100"
    """The card."""
    preset: Literal["residual", "mathllm"] = "residual"
    """Kind of recursion."""
    batch_size: int | None = None
    """Rows in a batch (default: 8 in training, as many as fit, at most 64, in an evaluation)."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type to compute in."""
    gpus: int = 1
    """Cards that share the work."""
    mesh: str | None = None
    """How they share it, such as data=4,fsdp=2,tensor=1 (default: all of them on data)."""
    compile: bool = False
    """Also compile for the card, which needs JAX's CUDA wheels and XLA_FLAGS=--xla_gpu_autotune_level=0, but no GPU."""
    link: float = 450
    """With --compile: gigabytes a second that each card can send (450: NVLink of an H100)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Training, an epoch of GSM8K."""

    max_length: int = 1024
    """Longer examples are dropped, tokens."""
    accumulation: int = 1
    """Micro-batches in a batch."""
    cache_hidden: bool = False
    """Take the backbone's hidden states from disk, as train.py --cache-hidden does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decode(Common):
    """An evaluation on GSM8K's test set."""

    head: Literal["trm", "backbone"] = "trm"
    """backbone: leave the recursion out."""
    max_new_tokens: int | None = None
    """Tokens of the longest completion (default: 512, or half of what the backbone reads)."""


def main(options: Train | Decode) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is computed
    jax.config.update("jax_enable_compilation_cache", False)  # without a GPU JAX cannot read programs for one from it
    from trm_jax.benchmark import DecodingPlan, TrainingPlan
    from trm_jax.decoding import DecodeConfig
    from trm_jax.hardware import find_card

    options.require(1, *(name for name in COUNTS if hasattr(options, name)))
    if not options.compile:
        options.refuse("needs --compile", "link")
    backbone, card = backbone_of(options), find_card(options.gpu)
    trm = TRMConfig.preset(options.preset, **cli.given(options, TRMConfig, RENAMED))
    if isinstance(options, Train):
        train = TrainConfig(
            batch_size=options.batch_size or TrainConfig.batch_size,
            accumulation=options.accumulation,
            max_length=options.max_length,
            dtype=options.dtype,
        )
        plan = TrainingPlan(backbone, trm, train, card, options.gpus, options.mesh, options.cache_hidden)
    else:
        config = DecodeConfig(trm.supervision_steps, trm.recursions, trm.kv_cache, options.head, ())
        longest = options.max_new_tokens or cli.longest_completion("", backbone.max_length)
        sizes = dict(batch_size=options.batch_size, max_new_tokens=longest)
        plan = DecodingPlan(backbone, trm, config, card, options.dtype, **sizes, gpus=options.gpus, mesh=options.mesh)
    print(f"{options.model or options.config}, {options.preset}: {plan.describe()}")
    if options.compile:
        try:
            print(plan.compile(options.link * 1e9))
        except RuntimeError as error:
            raise UserError(f"this JAX cannot compile for a CUDA GPU: {error}") from None


def backbone_of(options: Common) -> QwenConfig:
    """The backbone's config, of a published size or of a model."""
    from trm_jax.benchmark import SIZES
    from trm_jax.checkpoints import kind_of, open_folder
    from trm_jax.conversion import find_config

    if options.model is None:
        return SIZES[options.config]
    if kind_of(pathlib.Path(options.model)):
        return open_folder(options.model).model.backbone_config
    return find_config(options.model)


if __name__ == "__main__":
    cli.run(main, Train | Decode, __doc__)
