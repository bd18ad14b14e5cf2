"""Rows that follow from the mesh, whatever process its devices belong to."""

import ast
import collections
import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from shares import blocks, in_turn

import ibot_jax
from ibot_jax.parallel import rows
from ibot_jax.parallel.layouts import batch_sharding
from ibot_jax.parallel.mesh import AXES, make_mesh
from ibot_jax.parallel.shares import all_rows


@dataclasses.dataclass(frozen=True, order=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    slice_index: int = 0


def mesh_of(processes, shape):
    """A mesh whose devices, in its own order, belong to these processes."""
    devices = np.array([Device(i, process) for i, process in enumerate(processes)], object)
    return Mesh(devices.reshape(shape), AXES)


@pytest.fixture
def rows_of(monkeypatch):
    """Returns a function from a mesh, a batch size and a process to the rows of that process."""

    def find(mesh, batch_size, process):
        monkeypatch.setattr(jax, "process_index", lambda: process)
        return rows.rows_of_process.__wrapped__(mesh, batch_size)

    return find


@pytest.mark.parametrize(
    ("processes", "divide"), [([0] * 4 + [1] * 4, blocks), ([0, 1] * 4, in_turn)]
)
def test_devices_in_blocks_and_in_turn(processes, divide, rows_of):
    mesh = mesh_of(processes, (4, 2, 1))
    assert [rows_of(mesh, 8, process) for process in range(2)] == divide(8, 2)
    assert rows_of(mesh, 24, 1).numbers.tolist() == [
        3 * row + i for row in divide(8, 2)[1].numbers for i in range(3)
    ]


@pytest.mark.parametrize("shape", [(12, 1, 1), (4, 3, 1), (3, 2, 2), (2, 1, 6)])
@pytest.mark.parametrize("seed", range(5))
def test_each_row_is_made_by_the_processes_that_hold_it_in_ascending_order(shape, seed, rows_of):
    """Of 12 devices that belong to 3 processes at random; 24 rows."""
    processes = np.random.default_rng(seed).permutation(np.repeat(range(3), 4))
    mesh = mesh_of(processes, shape)
    holders = collections.defaultdict(set)  # written out: rows go over data, then over fsdp
    each = 24 // (shape[0] * shape[1])
    for place, process in zip(np.ndindex(shape), processes, strict=True):
        first = (place[0] * shape[1] + place[1]) * each
        for row in range(first, first + each):
            holders[row].add(int(process))
    found = {process: rows_of(mesh, 24, process) for process in range(3)}
    for process, own in found.items():
        assert own.numbers.tolist() == [row for row in range(24) if process in holders[row]]
        assert own.batch_size == 24 and len(own) == len(own.numbers)
        assert own.shares == found[0].shares
    if shape[2] == 1:  # no two devices hold the same rows
        assert sorted(row for own in found.values() for row in own.numbers) == list(range(24))
        assert sorted(own.own for own in found.values()) == [0, 1, 2]


def test_processes_whose_devices_hold_the_same_rows_have_one_share(rows_of):
    mesh = mesh_of([0, 0, 1, 1, 2, 2, 3, 3], (2, 1, 4))  # a group of four over two processes
    found = [rows_of(mesh, 6, process) for process in range(4)]
    assert [own.own for own in found] == [0, 0, 1, 1]
    assert found[0].shares == ((0, 1, 2), (3, 4, 5))


def test_a_process_alone_has_all_rows():
    assert rows.rows_of_process(make_mesh(fsdp=2), 16) == all_rows(16)
    assert all_rows(3).numbers.tolist() == [0, 1, 2] and all_rows(3).batch_size == 3


@pytest.mark.parametrize("axes", [{}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}])
def test_global_arrays_hold_the_rows_in_their_order_whatever_that_of_the_devices(axes):
    order = np.random.default_rng(0).permutation(8)
    mesh = make_mesh([jax.devices()[i] for i in order], **axes)
    batch = {
        "images": np.arange(16 * 3, dtype=np.uint8).reshape(16, 3),
        "none": np.zeros((16, 0, 2), np.float32),
        "valid": np.arange(16) % 3 > 0,
    }
    found = rows.to_global(batch, mesh)
    for name, array in batch.items():
        assert found[name].sharding.is_equivalent_to(batch_sharding(mesh), array.ndim)
        np.testing.assert_array_equal(found[name], array)
        for shard in found[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, array[shard.index])


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="divi"):
        rows.to_global({"x": np.zeros((12, 2))}, make_mesh())


def test_groups_of_tensor_are_of_one_process_and_only_data_crosses_slices():
    """Sixteen devices of eight processes in two slices, in any order."""
    devices = [Device(i, i // 2, slice_index=i // 2 % 2) for i in range(16)]
    in_order = sorted(range(16), key=lambda i: (i // 2 % 2, i))
    for seed in range(3):
        shuffled = [devices[i] for i in np.random.default_rng(seed).permutation(16)]
        for fsdp, tensor in ((1, 2), (4, 1), (2, 4)):
            mesh = make_mesh(shuffled, fsdp=fsdp, tensor=tensor)
            assert dict(mesh.shape) == {
                "data": 16 // (fsdp * tensor),
                "fsdp": fsdp,
                "tensor": tensor,
            }
            assert [device.id for device in mesh.devices.flat] == in_order
            assert mesh.axis_types == (jax.sharding.AxisType.Auto,) * 3


def test_devices_of_one_slice_are_laid_out_as_they_are_wired(monkeypatch):
    monkeypatch.setattr(jax, "make_mesh", lambda shape, axes, **_: (shape, axes))
    one, two = ([Device(i, 0, slice_index=3 + i % n) for i in range(8)] for n in (1, 2))
    assert make_mesh(one, fsdp=2) == ((4, 2, 1), ("data", "fsdp", "tensor"))
    for mesh in (make_mesh(two, fsdp=2), make_mesh(one, tensor=2)):
        assert isinstance(mesh, Mesh)


def test_a_mesh_has_all_devices_by_default_and_data_what_is_left():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    some = make_mesh(jax.devices()[:6], fsdp=3)
    assert dict(some.shape) == {"data": 2, "fsdp": 3, "tensor": 1}
    assert set(some.devices.flat) == set(jax.devices()[:6])


PACKAGE = pathlib.Path(ibot_jax.__file__).parent
# What says where this process stands, or joins what processes have by where they stand.
NUMBERS = {"process_index", "process_count"}
JOINS = {
    "make_array_from_process_local_data",
    "process_allgather",
    "host_local_array_to_global_array",
}
ASK_JAX = {"mesh.py", "rows.py", "processes.py", "agreement.py"}
COUNT = {"runs/pretrain.py", "runs/memory.py", "runs/reporting/header.py"}  # to check and to tell


def names_in(path):
    """Yields the names that a file reads from jax, from a device, or from anything else."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name.rpartition(".")[2]


def test_nobody_else_asks_which_of_the_processes_this_is():
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        found = set(names_in(path))
        assert not found & JOINS, name
        if path.parent != PACKAGE / "parallel" or path.name not in ASK_JAX:
            assert not found & NUMBERS, name
        if "num_processes" in found and path.parent != PACKAGE / "parallel":
            assert name in COUNT | {"main.py", "evaluate/__main__.py"}, name  # flags of these two
