"""What an earlier version wrote is resumed, loaded, exported and evaluated as it did itself.

tests/data/old_run/README.md says how the folders were made. Bits are compared where both jax and
the processor are those of the record.
"""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import cli
import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image
from runs import restored

import ibot_jax
from ibot_jax import export
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.keys import Kind, of_kind
from ibot_jax.embed import __main__ as embed
from ibot_jax.evaluate import __main__ as evaluate

DATA = pathlib.Path(__file__).parent / "data/old_run"
EXECUTED = of_kind(KEYS, Kind.EXECUTED)

RUN = (
    "--config=configs/digits.py:ibot",
    "--config.duration=4 epochs",
    "--config.batch_size=32",
    "--config.model.width=8",
    "--config.model.depth=2",
    "--config.model.heads=2",
    "--config.head.hidden_dim=8",
    "--config.head.bottleneck_dim=4",
    "--config.head.prototypes=16",
    "--config.head.patch_prototypes=16",
    "--config.loss.teacher_temp_warmup=2 epochs",
    "--config.optim.warmup=1 epochs",
    "--config.data.max_per_class=16",
    "--config.data.local_views=1",
    "--config.data.workers=1",
    "--config.knn.max_train_per_class=16",
    "--config.knn.max_test_per_class=5",
    "--config.knn.every=2 epochs",
    "--config.checkpoint.every=1 epochs",
    "--config.checkpoint.keep=1",
    "--config.log_every=1 steps",
)
STARTED = (
    *RUN,
    "--config.duration=2 epochs",
    "--config.seed=3",
    "--config.loss.teacher_temp_warmup=1 epochs",
    "--config.knn.every=",
)
TUNING = (
    "--data=digits",
    "--max-train-per-class=16",
    "--max-test-per-class=5",
    "--batch-size=16",
    "--config.batch_size=32",
    "--config.duration=4 epochs",
    "--config.optim.lr=0.3",
    "--config.optim.warmup=1 epochs",
    "--config.optim.layer_decay=0.9",
    "--config.data.workers=1",
    "--config.data.scale=(0.5,1.0)",
    "--config.data.rand_augment.ops=1",
    "--config.data.rand_augment.magnitude=3.0",
    "--config.test_every=2 epochs",
    "--config.checkpoint.every=1 epochs",
    "--config.log_every=1 steps",
)


@pytest.fixture
def old(tmp_path):
    """Returns a folder with the runs, as they were left."""
    with tarfile.open(DATA / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@functools.cache
def record():
    """Returns what the earlier version made of the runs, with this jax if it was recorded."""
    path = DATA / f"jax_{jax.__version__}.npz"
    with np.load(path if path.exists() else DATA / "jax_0.10.2.npz") as arrays:
        return {name: array if array.ndim else array.item() for name, array in arrays.items()}


def same_bits():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    found = cpuinfo.exists() and re.search("model name.*: (.*)", cpuinfo.read_text())
    known = (DATA / f"jax_{jax.__version__}.npz").exists()
    return bool(known and found and found[1] == record()["cpu"])


def finish(folder, module, *arguments):
    """Runs a command in a folder, on one device, and returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(cli.ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def leaves(tree):
    """Returns {path: array} of nested dicts, by name."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in flat}


def assert_same_end(name, workdir, step, parts):
    """Compares the last checkpoint and all metrics with the record."""
    found = leaves(restored(epath.Path(workdir), step, parts))
    shapes = json.loads(record()[f"{name}/names"])
    assert {path: list(leaf.shape) for path, leaf in found.items()} == shapes
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    recorded = np.split(record()[f"{name}/values"], ends[:-1])
    lines = record()[f"{name}/metrics"].splitlines()
    rows, known = by_step(cli.rows(workdir)), by_step(map(json.loads, lines))
    assert rows.keys() == known.keys()
    for path, values in zip(shapes, recorded, strict=True):
        if same_bits():
            np.testing.assert_array_equal(found[path].ravel(), values, err_msg=path)
        else:  # of what other jax versions and processors differ by, ten steps make this
            np.testing.assert_allclose(found[path].ravel(), values, atol=1e-3, err_msg=path)
    for step, metrics in known.items():
        for key in metrics.keys() - {"images_per_second"}:
            expected = metrics[key] if same_bits() else pytest.approx(metrics[key], rel=0.01)
            assert rows[step][key] == expected, (step, key)


def by_step(rows):
    found = {}
    for row in rows:
        found.setdefault(row["step"], {}).update(row)
    return found


@pytest.mark.slow
def test_a_run_is_resumed_to_the_same_end(old):
    out = finish(cli.ROOT, "ibot_jax.main", *RUN, f"--workdir={old / 'old_run'}")
    assert "resumed at step 10" in out
    assert_same_end("resumed", old / "old_run", 20, ("student", "teacher", "centers"))


@pytest.mark.slow
def test_a_run_starts_from_it(old):
    arguments = (f"--config.init_from={old / 'old_run'}", f"--workdir={old / 'started'}")
    finish(cli.ROOT, "ibot_jax.main", *STARTED, *arguments)
    assert_same_end("started", old / "started", 10, ("student", "teacher", "centers"))


@pytest.mark.slow
def test_a_finetuning_is_resumed_to_the_same_end(old):
    arguments = ("finetune", "--from=old_run", "--out=old_tuned", *TUNING)
    assert "resumed at step 10" in finish(old, "ibot_jax.evaluate", *arguments)
    assert_same_end("tuned", old / "old_tuned/finetune", 20, ("params",))


@pytest.mark.parametrize(
    ("name", "workdir", "options"),
    [
        ("export.npz", "old_run", ["--head"]),
        ("export.safetensors", "old_run", ["--head"]),
        ("export.orbax", "old_run", ["--head"]),
        ("student.npz", "old_run", ["--weights=student"]),
        ("tuned.npz", "old_tuned/finetune", ["--head"]),
    ],
)
def test_exports_are_the_same_bit_for_bit(old, name, workdir, options):
    """Both as files, and as what is loaded from the run, from its export of now and of then."""
    now, then = old / name, old / "exports" / name
    form = name.rpartition(".")[2]
    arguments = [f"--workdir={old / workdir}", f"--to={form}", f"--out={now}", *options]
    assert export.main(arguments) == 0
    if form == "npz":
        ours, theirs = np.load(now), np.load(then)
        assert set(ours) == set(theirs)
        for key in set(theirs) - {"config"}:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        assert_described(str(ours["config"]), str(theirs["config"]))
    head, weights = "--head" in options, "student" if "student" in name else None
    of_run = {"head": head, "weights": weights} if weights else {"head": head}
    _, expected = ibot_jax.load(str(then), head=head)
    for path, given in ((now, {"head": head}), (old / workdir, of_run)):
        model, params = ibot_jax.load(str(path), **given)
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        assert model.facts["step"] == 10


def assert_described(ours, theirs):
    """What a config of then says, one of now says, too, but for how the run was executed."""
    ours, theirs = json.loads(ours), json.loads(theirs)
    for key, value in theirs.items():
        if isinstance(value, dict):
            learned = {k: v for k, v in value.items() if not {k, f"{key}.{k}"} & EXECUTED}
            assert learned.items() <= ours[key].items(), key
        else:
            assert ours[key] == value, key


@pytest.mark.parametrize("source", ["old_run", "exports/export.npz", "exports/export.orbax"])
def test_features_are_the_same(old, source):
    out = old / "now.npz"
    arguments = [f"--from={old / source}", f"--images={old / 'images'}", f"--out={out}"]
    assert embed.main([*arguments, "--patches", "--workers=1", "--batch-size=8"]) == 0
    ours, theirs = np.load(out), np.load(old / "embedded.npz")
    assert ours["names"].tolist() == theirs["names"].tolist()
    for kind in ("class", "patches"):
        np.testing.assert_allclose(ours[kind], theirs[kind], rtol=1e-5, atol=1e-5)


def test_neighbours_are_the_same(old):
    arguments = ["--data=digits", "--max-train-per-class=16", "--max-test-per-class=5"]
    arguments += ["--k=5,10", "--batch-size=16", "--workers=1", f"--out={old / 'knn'}"]
    assert evaluate.main(["knn", f"--from={old / 'old_run'}", *arguments]) == 0
    assert json.loads((old / "knn/knn.json").read_text())["rows"] == json.loads(record()["knn"])


@pytest.mark.parametrize("source", ["old_tuned/finetune", "exports/tuned.npz"])
def test_a_finetuned_model_predicts_the_same(old, source):
    images = [np.asarray(Image.open(path)) for path in sorted((old / "images").iterdir())]
    model, params = ibot_jax.load(str(old / source), head=True)
    logits = model.class_logits(params, np.stack(images)[..., None])
    np.testing.assert_allclose(logits, record()["logits"], rtol=1e-5, atol=1e-5)
