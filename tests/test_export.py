"""What an export holds is what the run saved, for readers that know nothing of ibot_jax."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading
import time

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.numpy
from disk import full_disk
from etils import epath
from runs import make_workdir, save_run
from tiny import tiny_batch, tiny_config, tiny_plan

import ibot_jax
from ibot_jax import export as exports
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.keys import Kind
from ibot_jax.files.atomic import renamed
from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.checkpoint import Checkpoints
from ibot_jax.runs.training import make_init
from ibot_jax.weights import write
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model

ROOT = pathlib.Path(__file__).parent.parent
FORMATS = ("orbax", "npz", "safetensors")
ACCURACIES = {2: 90.0, 4: 40.0, 6: None}  # by step


@pytest.fixture(scope="module")
def config():
    return tiny_config(data__mean=(0.5, 0.25, 0.125))


@pytest.fixture(scope="module")
def states(config):
    """Returns states by step, spread over eight devices, with teachers unlike their students."""
    mesh = make_mesh()
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def lay_out(x):
        splits = x.ndim and x.shape[0] % mesh.size == 0
        return jax.device_put(x, spread if splits else replicated(mesh))

    def state(step):
        first = make_init(config, tiny_plan(config))(jax.random.key(step))
        moved = jax.tree.map(lambda x: x + 2, first.opt_state)  # the teacher is in there
        return jax.tree.map(lay_out, first.replace(step=first.step + step, opt_state=moved))

    return {step: state(step) for step in ACCURACIES}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, config, states):
    """Returns the workdir of a run that is just saving its next checkpoint."""
    folder = make_workdir(tmp_path_factory.mktemp("runs") / "mine", config)
    checkpoints = Checkpoints(folder, keep=2)
    for step, accuracy in ACCURACIES.items():
        checkpoints.save(states[step], knn_top1=accuracy)
    checkpoints.close()
    (folder / "checkpoints/8.orbax-checkpoint-tmp/teacher").mkdir(parents=True)
    return pathlib.Path(folder)


def weights_of(state, who):
    return teacher_params(state) if who == "teacher" else state.params


def named(path, to):
    """Returns the path that an export to `path` has."""
    return path if to == "orbax" or path.suffix else path.with_name(f"{path.name}.{to}")


def read(path, to):
    """Returns the tree and the config of an export, read by what others read it with."""
    path = named(path, to)
    if to == "orbax":
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(path / "params")
        return tree, json.loads((path / "config.json").read_text())
    if to == "npz":
        flat = dict(np.load(path))
        config = str(flat.pop("config"))
        return flax.traverse_util.unflatten_dict(flat, sep="/"), json.loads(config)
    with safetensors.safe_open(path, framework="numpy") as file:
        config = file.metadata()["config"]
    flat = safetensors.numpy.load_file(path)
    return flax.traverse_util.unflatten_dict(flat, sep="."), json.loads(config)


def assert_equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert type(ours) is np.ndarray
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def failure(capsys, *arguments):
    """Runs the command line; returns the one line that it fails with."""
    assert exports.main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("head", [False, True], ids=["backbone", "head"])
@pytest.mark.parametrize("who", ["teacher", "student"])
@pytest.mark.parametrize("to", FORMATS)
def test_an_export_is_what_the_run_saved_bit_for_bit(workdir, states, tmp_path, to, who, head):
    out = tmp_path / "new/export"
    exports.export(str(workdir), str(out), to=to, weights=who, head=head)
    tree, config = read(out, to)
    expected = weights_of(states[6], who)
    parts = ("backbone", "head") if head else ("backbone",)
    assert_equal(tree, {part: expected[part] for part in parts})
    assert config["weights"] == who
    assert ("head" in config) == head
    name = named(out, to).name
    card = [] if to == "orbax" else [f"{name}.md"]
    assert sorted(os.listdir(out.parent)) == [name, *card]  # nothing is left over


@pytest.mark.parametrize("to", FORMATS)
def test_features_are_those_of_the_run(workdir, config, states, tmp_path, to):
    exports.export(str(workdir), str(tmp_path / "x"), to=to)
    tree, _ = read(tmp_path / "x", to)
    images = jnp.asarray(tiny_batch(config)["global_views"][:, 0])
    tokens = jax.jit(Model(config, "run").tokens)
    expected = tokens(jax.device_get(teacher_params(states[6])), images)
    np.testing.assert_array_equal(tokens(tree, images), expected)


def test_the_config_has_what_the_model_needs(workdir, tmp_path):
    exports.export(str(workdir), str(tmp_path / "x"), to="npz", head=True)
    _, config = read(tmp_path / "x", "npz")
    recorded = json.loads((workdir / "config.json").read_text())
    assert config["model"]["width"] == 16
    assert config["model"]["patch_size"] == 4
    assert config["head"]["prototypes"] == 12
    del config["model"], config["head"]
    assert config == {
        "global_size": [16, 16],
        "channels": 3,
        "mean": [0.5, 0.25, 0.125],
        "std": [0.229, 0.224, 0.225],
        "range": 0.0,
        "exif": False,
        "bands": False,
        "clip_percentiles": [0.0, 0.0],
        "window": [0.0, 0.0],
        "patch_grid": [4, 4],
        "view": {
            "size": [16, 16],
            "resize": [256, 256],
            "fit": "cover",
            "interpolation": "bicubic",
            "rounding": "even",
        },
        "dtype": "float32",
        "weights": "teacher",
        "step": 6,
        "knn_top1": None,
        "ibot_jax": ibot_jax.__version__,
        "run": {key: value for key, value in recorded.items() if KEYS[key].kind != Kind.EXECUTED},
    }


def test_how_a_run_was_executed_is_no_part_of_its_exports(states, tmp_path):
    """A run on GPUs, with their kernels, is one of any device: here of CPUs."""
    config = tiny_config(model__kernels="cudnn", model__remat="blocks", mesh__fsdp=4)
    folder = save_run(tmp_path / "run", config, states[4])
    exports.export(str(folder), str(tmp_path / "x"), to="npz", head=True)
    description = read(tmp_path / "x", "npz")[1]
    executed = {key for key, entry in KEYS.items() if entry.kind == Kind.EXECUTED}
    assert {"model.kernels", "loss.max_logits", "data.workers"} < executed
    assert not executed & description["run"].keys()
    sections = flax.traverse_util.flatten_dict(description, sep=".")
    assert not executed & sections.keys()
    for path in (folder, tmp_path / "x.npz"):
        model, params = ibot_jax.load(str(path))
        assert model.config.model.kernels == "auto" and model.config.model.remat == "none"
        tokens = model.tokens(params, np.zeros((1, 16, 16, 3), np.uint8))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tokens))


@pytest.mark.parametrize(
    ("step", "expected"), [("latest", 6), ("best", 2), ("2", 2), ("4", 4), ("6", 6)]
)
def test_the_step_is_chosen(workdir, states, tmp_path, step, expected):
    exports.export(str(workdir), str(tmp_path / "x"), to="npz", step=step)
    tree, config = read(tmp_path / "x", "npz")
    assert_equal(tree["backbone"], teacher_params(states[expected])["backbone"])
    assert (config["step"], config["knn_top1"]) == (expected, ACCURACIES[expected])


def test_the_run_that_is_still_saving_is_left_alone(workdir, tmp_path):
    before = sorted(workdir.rglob("*"))
    exports.export(str(workdir), str(tmp_path / "x"), to="npz")
    assert sorted(workdir.rglob("*")) == before


def test_float64_stays_float64(tmp_path):
    """Also where JAX itself would make it float32."""
    config = tiny_config()
    _, params = untrained(Model(config, "random"))
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64) + 1 / 3, params)
    folder = make_workdir(tmp_path / "run", config)
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        manager.save(1, args=ocp.args.Composite(teacher=ocp.args.StandardSave(tree)))
    for to in FORMATS:
        exports.export(str(tmp_path / "run"), str(tmp_path / to), to=to)
        assert_equal(read(tmp_path / to, to)[0], tree)


def readme_example():
    """Returns the README's export command and its snippet."""
    section = (ROOT / "README.md").read_text().split("## Export\n")[1].split("\n## ")[0]
    command = re.search(r"^    python -m (ibot_jax\.export .*)$", section, re.MULTILINE).group(1)
    return shlex.split(command), re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)


def test_the_readme_exports_and_reads_without_this_package(workdir, states, tmp_path):
    """On one device, though the run had eight."""
    (tmp_path / "runs").symlink_to(workdir.parent)
    command, snippet = readme_example()
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = python("-m", *command)
    assert (done.returncode, done.stderr) == (0, "")
    backbone = jax.device_get(teacher_params(states[2])["backbone"])
    leaves = jax.tree.leaves(backbone)
    numbers = f"{len(leaves)} tensors, {sum(x.size for x in leaves):,} parameters"
    size = f"{4 * sum(x.size for x in leaves):,} bytes"
    assert done.stdout == (
        f"teacher's backbone, step 2, k-NN 90.0 %: {numbers}, {size}\n"
        f"{tmp_path / 'exports/mine'} (orbax)\n"
    )

    blocked = tmp_path / "blocked/ibot_jax/__init__.py"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("raise ImportError('ibot_jax must not be needed')")
    environment["PYTHONPATH"] = str(tmp_path / "blocked")
    saving = "\nimport pickle\npickle.dump(params, open('params.pickle', 'wb'))"
    assert "must not be needed" in python("-c", "import ibot_jax").stderr
    done = python("-c", snippet + saving)
    assert done.returncode == 0, done.stderr
    assert "'width': 16" in done.stdout
    assert "(1, 17, 16)" in done.stdout
    assert_equal(np.load(tmp_path / "params.pickle", allow_pickle=True), {"backbone": backbone})


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_replaced_unless_asked(workdir, states, tmp_path, capsys, to):
    arguments = (f"--from={workdir}", f"--to={to}", f"--out={tmp_path / 'x'}")
    assert exports.main([*arguments, "--step=2"]) == 0
    capsys.readouterr()
    name = named(tmp_path / "x", to).name
    assert f"--out={tmp_path / name} exists" in failure(capsys, *arguments)
    assert read(tmp_path / "x", to)[1]["step"] == 2
    assert exports.main([*arguments, "--overwrite"]) == 0
    tree, config = read(tmp_path / "x", to)
    assert config["step"] == 6
    assert_equal(tree["backbone"], teacher_params(states[6])["backbone"])
    assert {name} <= set(os.listdir(tmp_path)) <= {name, f"{name}.md"}


def test_only_an_export_is_ever_replaced(workdir, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    arguments = (f"--from={workdir}", "--overwrite")
    for to, name, message in (
        ("orbax", "folder", "holds more than an earlier export"),
        ("orbax", "file", "exists and is not a folder"),
        ("npz", "folder.npz", "exists and is not a file"),
    ):
        assert message in failure(capsys, *arguments, f"--to={to}", f"--out={tmp_path / name}")
    assert (tmp_path / "folder/thesis.tex").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("to", FORMATS)
def test_a_failed_export_leaves_nothing_but_the_earlier_one(workdir, tmp_path, capsys, to):
    arguments = (f"--from={workdir}", f"--to={to}", "--step=2")
    assert exports.main([*arguments, f"--out={tmp_path / 'old'}"]) == 0
    capsys.readouterr()
    # Orbax raises what one of its threads met first.
    reason = ".+" if to == "orbax" else ".*too large.*"
    for options in (["--out", tmp_path / "new"], ["--out", tmp_path / "old", "--overwrite"]):
        with full_disk():
            message = failure(capsys, *arguments, *options)
        assert re.search(rf"--out=\S+ cannot be written \({reason}\); choose", message)
    name = named(tmp_path / "old", to).name
    assert {name} <= set(os.listdir(tmp_path)) <= {name, f"{name}.md"}
    assert read(tmp_path / "old", to)[1]["step"] == 2


def test_writers_that_outlive_a_failure_leave_nothing(tmp_path):
    """Orbax raises the first failure while its other threads still write."""

    def write_on(folder):
        for i in range(30):
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / str(i)).touch()
            time.sleep(0.02)

    threads = []

    def failing_export():
        with renamed(epath.Path(tmp_path / "x")) as temporary:
            threads.append(threading.Thread(target=write_on, args=(temporary / "params",)))
            threads[0].start()
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        failing_export()
    threads[0].join()
    assert not list(tmp_path.iterdir())


def test_a_killed_export_has_no_config_yet(workdir, tmp_path, monkeypatch):
    """The config comes last, so that whoever reads it reads a whole export."""

    def killed(*_):
        assert (tmp_path / "x/params").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        exports.export(str(workdir), str(tmp_path / "x"), to="orbax")
    assert not (tmp_path / "x/config.json").exists()
    monkeypatch.undo()
    exports.export(str(workdir), str(tmp_path / "x"), to="orbax", overwrite=True)
    assert read(tmp_path / "x", "orbax")[1]["step"] == 6


def test_no_such_workdir(tmp_path, capsys):
    options = ("--to=npz", f"--out={tmp_path / 'x'}")
    message = failure(capsys, f"--from={tmp_path / 'absent'}", *options)
    assert "absent does not exist" in message
    assert "there is no config.json in it" in failure(capsys, f"--from={tmp_path}", *options)
    assert not (tmp_path / "x").exists()


def test_a_run_without_checkpoints(tmp_path, config, capsys):
    make_workdir(tmp_path / "run", config)
    (tmp_path / "run/checkpoints/3.orbax-checkpoint-tmp").mkdir(parents=True)
    arguments = (f"--from={tmp_path / 'run'}", "--to=npz", f"--out={tmp_path / 'x'}")
    assert "holds no complete checkpoint" in failure(capsys, *arguments)


@pytest.mark.parametrize("step", ["3", "8", "first"])
def test_an_unknown_step_names_those_there_are(workdir, tmp_path, capsys, step):
    arguments = (f"--from={workdir}", "--to=npz", f"--out={tmp_path / 'x'}", f"--step={step}")
    message = failure(capsys, *arguments)
    assert f"step={step} is not in" in message
    assert message.endswith("there are latest, best, 2, 4, 6\n")


def test_no_best_without_knn(tmp_path, config, states, capsys):
    folder = save_run(tmp_path / "run", config, states[4])
    arguments = (f"--from={folder}", "--to=npz", f"--out={tmp_path / 'x'}", "--step=best")
    message = failure(capsys, *arguments)
    assert "step=best: no checkpoint in" in message and "takes images with labels" in message
    assert message.endswith("there are latest, 4\n")


def test_a_damaged_checkpoint(tmp_path, config, states, capsys):
    folder = save_run(tmp_path / "run", config, states[4])
    epath.Path(folder / "checkpoints/4/teacher").rmtree()
    arguments = (f"--from={folder}", "--to=npz", f"--out={tmp_path / 'x'}")
    message = failure(capsys, *arguments)
    assert "holds no whole checkpoint for step=latest (step 4: teacher/_METADATA is miss" in message


def test_a_config_that_lacks_a_key(tmp_path, workdir, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(workdir / "checkpoints")
    (tmp_path / "run/config.json").write_text('{"model.patch_size": 4, "data.channels": 3}')
    arguments = (f"--from={tmp_path / 'run'}", "--to=npz", f"--out={tmp_path / 'x'}")
    assert "weights of another architecture than its config" in failure(capsys, *arguments)


def test_a_path_that_cannot_be_written(workdir, tmp_path, capsys):
    (tmp_path / "file").touch()
    for to in FORMATS:
        arguments = (f"--from={workdir}", f"--to={to}", f"--out={tmp_path / 'file/x'}")
        assert "cannot be written (" in failure(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to=onnx"], "argument --to: invalid choice: 'onnx' (choose from "),
        (["--to=npz", "--weights=both"], "argument --weights: invalid choice: 'both'"),
        (["--to=npz", "--stepp=3"], "unrecognized arguments: --stepp=3"),
        ([], "required: --to"),
    ],
)
def test_a_command_line_that_does_not_parse(workdir, tmp_path, capsys, arguments, message):
    given = (f"--from={workdir}", f"--out={tmp_path / 'x'}", *arguments)
    assert message in failure(capsys, *given)


def test_without_the_package_safetensors(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    arguments = (f"--from={workdir}", "--to=safetensors", f"--out={tmp_path / 'x'}")
    assert "pip install ibot-jax[export]" in failure(capsys, *arguments)


@pytest.mark.parametrize("to", ["npz", "safetensors"])
@pytest.mark.parametrize("name", ["x", "mine.v2", "x.NPZ", "x.pth"])
def test_a_file_gets_the_suffix_that_it_is_known_by(workdir, tmp_path, capsys, to, name):
    arguments = (f"--from={workdir}", f"--to={to}", f"--out={tmp_path / name}")
    assert exports.main(arguments) == 0
    target = f"{tmp_path / name}.{to}"
    assert f"{target} ({to}; .{to} was added)" in capsys.readouterr().out
    assert ibot_jax.load(target)[0].facts["step"] == 6
