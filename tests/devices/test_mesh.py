"""Meshes, and where weights lie on them."""

import jax
import pytest
from jax.sharding import PartitionSpec

from tests.support.models import tiny_model
from trm_jax.config import TrainConfig
from trm_jax.hardware import MeshError, describe_mesh, make_mesh, require_rows, row_parts, shardings, weight_parts
from trm_jax.model import named_weights
from trm_jax.training import make_optimizer, new_state


def test_without_sizes_all_devices_are_on_data():
    assert dict(make_mesh().shape) == {"data": 4, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh("tensor=2, fsdp=2").shape) == {"data": 1, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ("data=3", "number of devices, 4"),
        ("rows=4", "no axis"),
        ("data=0", "no axis"),
        ("data", "no axis"),
        ("", "no axis"),
    ],
)
def test_a_mesh_that_the_devices_do_not_make_up_is_refused(sizes, says):
    with pytest.raises(MeshError, match=says):
        make_mesh(sizes)


def test_every_weight_has_its_place():
    places = shardings(named_weights(tiny_model("mathllm")), make_mesh("fsdp=2,tensor=2"))
    expected = {
        "backbone.embedding": (None, "fsdp"),  # its vocabulary of 61 is not divided
        "backbone.layers.attention.query.kernel": (None, "fsdp", "tensor"),
        "backbone.layers.attention.query.bias": (None, "tensor"),
        "backbone.layers.mlp.down.kernel": (None, "tensor", "fsdp"),
        "trm.block.attention.output.kernel": ("tensor", "fsdp"),
        "trm.block.norm1.scale": ("fsdp",),
        "trm.head": (None, "fsdp"),
    }
    assert {name: places[name].spec for name in expected} == {
        name: PartitionSpec(*axes) for name, axes in expected.items()
    }


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_optimizers_state_lies_as_its_weights(optimizer):
    state = new_state(tiny_model("residual").trm, make_optimizer(TrainConfig(optimizer=optimizer), 10))
    places = shardings(named_weights(state), make_mesh("fsdp=2,tensor=2"))
    moments = [name for name in places if name.startswith("optimizer") and name.endswith("query.kernel")]
    assert moments
    assert {places[name].spec for name in moments} == {PartitionSpec("fsdp", "tensor")}
    assert places["steps"].spec == PartitionSpec()


def test_what_is_not_divided_is_said():
    model = tiny_model("mathllm")
    assert describe_mesh(model) is None
    with jax.set_mesh(make_mesh("data=2,tensor=2")):
        said = describe_mesh(model)
        assert said.startswith("data=2, fsdp=1, tensor=2; not divided")
        assert "backbone.embedding" in said
        assert "query" not in said
        assert (row_parts(), weight_parts()) == (2, 2)
    with jax.set_mesh(make_mesh("data=2,fsdp=2")):
        require_rows(8)
        with pytest.raises(MeshError, match="--batch-size 4 or 8 would do"):
            require_rows(6)
        with pytest.raises(MeshError, match="--batch-size 4 would do"):
            require_rows(3)
