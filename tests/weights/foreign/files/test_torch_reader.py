"""PyTorch's files are read as PyTorch wrote them, and whatever else is in them never runs."""

import contextlib
import io
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files.torch_reader import StoredTensor, read_torch

# torch.save(...) of PyTorch 2.14.1 or 2.13.0 (rare ones), of tensors whose values are known.
SAVED = epath.Path(pathlib.Path(__file__).parents[3] / "data/torch_saved.pth")
BASE = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def archive(path, program, entries=(), compression=zipfile.ZIP_STORED):
    """Writes what torch.save would, of a given pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for name, content in dict(entries).items():
            file.writestr(f"archive/{name}", content)
    return epath.Path(path)


def short(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor_program(key="0", offset=0, shape=(2,), strides=(1,), tail=b""):
    """Returns the pickle of one tensor, and of `tail` applied to it."""
    numbers = [
        b"(" + b"".join(b"J" + struct.pack("<i", n) for n in ns) + b"t" for ns in (shape, strides)
    ]
    storage = (
        b"(" + short("storage") + b"ctorch\nFloatStorage\n" + short(key) + short("cpu") + b"K\x02tQ"
    )
    place = b"J" + struct.pack("<i", offset)
    hooks = b"ccollections\nOrderedDict\n)R"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + place
        + b"".join(numbers)
        + b"\x89"
        + hooks
    )
    return b"\x80\x02" + call + b"tR" + tail + b"."


def test_every_kind_of_tensor_is_what_pytorch_saved():
    tensors = read_torch(SAVED)["teacher"]
    expected = {
        "float32": BASE,
        "transposed": BASE.T,
        "row": BASE[1],
        "every_other": BASE[:, ::2],
        "float64": BASE.astype(np.float64),
        "float16": BASE.astype(np.float16),
        "bfloat16": BASE.astype(ml_dtypes.bfloat16),
        "parameter": BASE + 1,
        "scalar": np.float32(2.5),
        "int64": np.array([1, -2]),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        read = tensors[name].read()
        assert (read.dtype, read.shape) == (array.dtype, array.shape), name
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, array)


def test_rare_kinds_of_tensors_are_what_pytorch_saved():
    """Of eight bits, without a storage type of their own, and expanded from fewer numbers."""
    tensors = read_torch(SAVED.with_name("torch_saved_rare.pth"))
    expected = {
        "f8": np.array([1, -2.5, 448], ml_dtypes.float8_e4m3fn),
        "f85": np.array([1, -2.5], ml_dtypes.float8_e5m2),
        "u16": np.array([1, 65535], np.uint16),
        "i16": np.array([-3, 7], np.int16),
        "bf": np.array([1.5, -0.25], ml_dtypes.bfloat16),
        "exp": np.float32([[1, 1, 1], [2, 2, 2]]),
        "scalar": np.full((2, 2), np.float32(3)),
    }
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        read = tensors[name].read()
        assert (read.dtype, read.shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(read, array)


def test_what_is_saved_beside_tensors_is_plain_data():
    saved = read_torch(SAVED)
    assert saved["epoch"] == 7
    assert saved["list"] == [1, (2, "three"), 2**40, -1.5]
    assert saved["args"] == {
        "arch": "vit_small",
        "lr": 0.25,
        "none": None,
        "size": (2, 3),
        "device": "cpu",
        "dtype": "float16",
    }


def test_a_whole_recorded_checkpoint(reference):
    """Its optimiser's state has NumPy scalars among tensors."""
    saved = read_torch(epath.Path(reference("checkpoint.pth")))
    assert set(saved) == {"student", "teacher", "optimizer", "epoch", "args", "ibot_loss"}
    assert saved["optimizer"]["state"][0]["exp_avg"].read().shape == (1, 1, 48)
    assert saved["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert saved["args"]["arch"] == "vit_custom"


class Hostile:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self._call = function, args

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["top", "beside weights", "in args"])
def test_nothing_in_a_hostile_pickle_runs(tmp_path, protocol, place):
    witness = tmp_path / "witness"
    hostile = Hostile(os.mkdir, str(witness))
    tree = {
        "top": hostile,
        "beside weights": {"teacher": {}, "hook": hostile},
        "in args": {"args": {"lr": [hostile]}},
    }[place]
    program = pickle.dumps(tree, protocol)
    pickle.loads(program)
    assert witness.exists()  # it would have
    witness.rmdir()
    with pytest.raises(UserError) as error:
        read_torch(archive(tmp_path / "x.pth", program))
    assert f"x.pth wants to call {os.mkdir.__module__}.mkdir," in str(error.value)
    assert "nothing of it was run" in str(error.value)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"cos\nsystem\n(X\x04\x00\x00\x00exittR.", "os.system"),
        (b"(X\x04\x00\x00\x00exitios\nsystem\n.", "os.system"),  # INST
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),  # named, but not called
        (b"ctorch\nload\n.", "torch.load"),
        (b"ccollections\nOrderedDict.__init__\n.", "collections.OrderedDict.__init__"),
        (b"cnumpy\nload\n.", "numpy.load"),
    ],
)
def test_a_name_that_weights_do_not_need_is_refused_by_name(tmp_path, program, named):
    with pytest.raises(UserError, match=f"wants to call {named}, which"):
        read_torch(archive(tmp_path / "x.pth", program))


def test_a_pickle_cannot_change_what_the_next_one_may_call(tmp_path):
    """BUILD sets attributes of whatever was named before, also of classes and functions."""
    state = b"N}" + short("__setstate__") + b"cargparse\nNamespace\ns\x86b"
    for name in (
        b"cargparse\nNamespace\n",
        b"cnumpy\ndtype\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
    ):
        with contextlib.suppress(UserError):
            read_torch(archive(tmp_path / "x.pth", name + state + b"."))
    test_what_is_saved_beside_tensors_is_plain_data()


CONTENT = {"data/0": np.float32([1, 2]).tobytes()}


def test_the_programs_of_these_tests_are_sound(tmp_path):
    tensor = read_torch(archive(tmp_path / "x.pth", tensor_program(), CONTENT))
    np.testing.assert_array_equal(tensor.read(), [1, 2])


@pytest.mark.parametrize(
    "faults",
    [
        dict(shape=(3,)),
        dict(offset=1),
        dict(strides=(2,)),
        dict(offset=-1),
        dict(strides=(-1,)),
        dict(shape=(-2,)),
        dict(shape=(2**31 - 1, 2**31 - 1), strides=(0, 0)),  # no memory for that
        dict(shape=(2, 2)),  # fewer strides than axes
        dict(key="1"),
        dict(key="../data.pkl"),
        # After it was made: BUILD with a new shape.
        dict(tail=b"}" + short("shape") + b"(K\x09ts" + b"b"),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_never_read(tmp_path, faults):
    path = archive(tmp_path / "x.pth", tensor_program(**faults), CONTENT)
    tensor = read_torch(path)
    assert isinstance(tensor, StoredTensor)
    with pytest.raises(Exception, match=r"."):
        tensor.read()


def test_big_endian_storages(tmp_path):
    entries = {"data/0": np.array([1, 2], ">f4").tobytes(), "byteorder": b"big"}
    tensor = read_torch(archive(tmp_path / "x.pth", tensor_program(), entries))
    np.testing.assert_array_equal(tensor.read(), [1, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no zip archive"),
        (pickle.dumps({"a": 1}, 2), "was written before PyTorch 1.6"),
        (SAVED.read_bytes()[:2000], "is no zip archive: it is damaged"),
    ],
)
def test_another_file_is_told_in_words(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_torch(epath.Path(tmp_path / "x.pth"))


def test_other_zip_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
        file.writestr("hello", "")
    with pytest.raises(UserError, match="was not written by torch.save"):
        read_torch(epath.Path(tmp_path / "x.pth"))
    path = archive(tmp_path / "x.pth", b"N.", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed, which torch.save never does"):
        read_torch(path)
    with pytest.raises(UserError, match=r"x\.pth is damaged"):
        read_torch(archive(tmp_path / "x.pth", b"}"))


def test_flipped_bytes_end_in_one_line_or_in_data(tmp_path):
    """Whatever the pickle says; no exception but UserError comes out of reading it."""
    content = SAVED.read_bytes()
    start = content.index(b"\x80\x02")
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(start, start + 1500, 3):
            damaged[place] = rng.integers(256)
        # The checksum of the pickle must fit, or zipfile alone would refuse it.
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            entries = {n: file.read(n) for n in file.namelist() if "/data/" in n}
        path = tmp_path / "x.pth"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", bytes(damaged[start : start + 1504]))
            for name, data in entries.items():
                file.writestr(name.replace("torch_saved", "a"), data)
        with contextlib.suppress(UserError):
            read_torch(epath.Path(path))
