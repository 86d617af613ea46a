"""What an evaluation would need of a card: memory, arithmetic, traffic, launches. See `training_plan`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.benchmark.card_fit import block_of, describe_compiled, describe_plan, placed, usable_memory
from trm_jax.benchmark.exchange import NVLINK, describe_exchange
from trm_jax.benchmark.lengths import gsm8k_lengths
from trm_jax.benchmark.measure import describe_loops
from trm_jax.benchmark.sizes import abstract_backbone
from trm_jax.benchmark.work import DECODING_KERNELS, Work, call_flops, layer_flops
from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.decoding import (
    CAPACITY_STEP,
    MOST_ROWS,
    DecodeConfig,
    DecodeState,
    Room,
    decode_until,
    padded_length,
    round_up,
)
from trm_jax.errors import UserError
from trm_jax.hardware import (
    Card,
    Hlo,
    cache_bytes,
    card_mesh,
    compile_for,
    count_bytes,
    mesh_sizes,
    shardings,
    split_sharding,
)
from trm_jax.model import QwenTRM, abstract_trm, cast, for_decoding


@dataclasses.dataclass(frozen=True)
class DecodingPlan:
    """An evaluation on questions and answers as long as those of GSM8K's test set.

    Example: `print(DecodingPlan(SIZES["qwen2.5-math-7b"], TRMConfig.residual(), config, CARDS["h100"]).describe())`.
    """

    backbone_config: QwenConfig
    trm_config: TRMConfig
    config: DecodeConfig
    card: Card
    dtype: str = "bfloat16"
    batch_size: int | None = None  # None: as many rows as fit
    max_new_tokens: int = 512
    gpus: int = 1
    mesh: str | None = None  # of several GPUs; None: all on `data`

    def __post_init__(self):
        longest = int(gsm8k_lengths("test")[:, 0].max()) + self.max_new_tokens
        if longest > self.backbone_config.max_length:
            raise UserError(
                f"the longest question and --max-new-tokens {self.max_new_tokens:,} take {longest:,} tokens, and this "
                f"backbone reads {self.backbone_config.max_length:,}: lower --max-new-tokens"
            )

    @functools.cached_property
    def _parts(self) -> dict[str, int]:
        sizes = mesh_sizes(self.mesh, self.gpus)
        return dict(row_parts=sizes["data"] * sizes["fsdp"], tensor_parts=sizes["tensor"])

    @property
    def _weights(self) -> int:
        """Bytes of the weights that each GPU holds."""
        sizes = mesh_sizes(self.mesh, self.gpus)
        return count_bytes(self.model) // (sizes["fsdp"] * sizes["tensor"])

    @functools.cached_property
    def model(self) -> QwenTRM:
        """The model with shapes in place of arrays."""
        backbone = abstract_backbone(self.backbone_config, self.dtype)
        trm = jax.eval_shape(functools.partial(cast, dtype=self.dtype), abstract_trm(backbone, self.trm_config))
        return QwenTRM(backbone, trm)

    @functools.cached_property
    def room(self) -> Room:
        """The room that the longest question of the test set needs."""
        longest = int(gsm8k_lengths("test")[:, 0].max())
        capacity = round_up(longest + self.max_new_tokens, CAPACITY_STEP)
        return Room(self.model, self.config, capacity, padded_length(longest), **self._parts)

    @functools.cached_property
    def rows(self) -> int:
        """Rows of a batch: as asked for, or as many as fit; 0 if not even one on each GPU that has rows of its own does."""
        free, parts = usable_memory(self.card)[1] - self._weights, self.room.row_parts
        return round_up(self.batch_size or self.room.fitting(free, MOST_ROWS * parts) // parts * parts, parts)

    def memory(self) -> dict[str, int]:
        """Bytes of each GPU by part; for one row if none fits."""
        return {"weights": self._weights} | self.room.needed(max(self.rows, self.room.row_parts))

    def step(self) -> Work:
        """One new token in every row, with caches that are filled as in the middle of the median answer."""
        qwen, trm, rows = self.backbone_config, self.model.trm, max(self.rows, 1)
        prompt, answer = np.median(gsm8k_lengths("test"), axis=0)
        filled, passes = prompt + answer / 2, len(self.config.passes) if self.config.head == "trm" else 0
        head = 2 * qwen.width * qwen.vocab_size
        flops = qwen.num_layers * layer_flops(qwen, filled) + head
        flops += passes * self.trm_config.calls * call_flops(qwen, self.trm_config, filled)
        read = count_bytes(self.model.backbone)
        if not qwen.tied_head:
            read -= count_bytes(self.model.backbone.embedding)  # of which only a row is read
        read += passes * self.trm_config.calls * count_bytes(block_of(trm))
        read += rows * filled * cache_bytes(qwen, self.trm_config, self.dtype, passes)
        kernels = DECODING_KERNELS["a token"] + DECODING_KERNELS["a layer"] * qwen.num_layers
        kernels += DECODING_KERNELS["a block call"] * passes * self.trm_config.calls
        return Work(rows * flops, read, kernels)

    def program(self) -> jax.stages.Compiled:
        """Decoding to the end, as XLA compiles it for the card, or for each of several."""
        arrange = functools.partial(for_decoding, platform="cuda")
        number = jax.ShapeDtypeStruct((), jnp.int32)
        if self.gpus == 1:
            model = jax.eval_shape(arrange, self.model)
            return compile_for(self.card, decode_until, model, self._state(model), number, number, config=self.config)
        mesh = card_mesh(self.card, self.gpus, self.mesh)
        with jax.set_mesh(mesh):
            model = jax.eval_shape(arrange, self.model)
            state = self._state(model)
        model = placed(model, shardings(model, mesh))
        state = placed(state, jax.tree.map(lambda array, dims: split_sharding(array, dims, mesh), state, state.dims))
        return compile_for(self.card, decode_until, model, state, number, number, config=self.config, mesh=mesh)

    def _state(self, model: QwenTRM) -> DecodeState:
        shape = max(self.rows, self.room.row_parts), self.room.capacity, self.max_new_tokens
        return jax.eval_shape(lambda: DecodeState.empty(model, self.config, *shape))

    def compile(self, link: float = NVLINK) -> str:
        """Peak memory and kernels of a decoded token, as XLA compiles it for the card.

        With several GPUs also what they exchange for a token, see `TrainingPlan.compile`.
        """
        program = self.program()
        said = describe_compiled(program, "a token")
        return said if self.gpus == 1 else f"{said}\n{describe_exchange(Hlo(program.as_text()), self.gpus, link)}"

    def describe(self) -> str:
        """The plan, for a person."""
        tokens = int(gsm8k_lengths("test")[:, 1].sum())
        rows, step = max(self.rows, self.room.row_parts), self.step()
        loops = describe_loops(self.trm_config)
        head = f"evaluation, head {self.config.head}, cache {self.config.kv_cache}, {loops}, {self.dtype}"
        what = f"{head}, {rows} rows of {self.room.capacity} tokens"
        lines = describe_plan(what, self.memory(), self.card, self.gpus)
        if self.gpus == 1:
            whole = step.times(tokens / rows).describe(self.card)
            lines.append(f"a token      of each row, worked out: {step.describe(self.card)}")
            lines.append(f"GSM8K's test {tokens:,} tokens of 1,319 answers, without reading the prompts: {whole}")
        return "\n".join(lines)
