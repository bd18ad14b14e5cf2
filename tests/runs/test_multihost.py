"""Several processes on this machine, each with its share of eight virtual devices."""

import signal

import cli
import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image
from processes import Run
from runs import restored, save_run

import ibot_jax
from ibot_jax.cli.config_file import parse_config
from ibot_jax.config import make_plan
from ibot_jax.runs.training import make_init

pytestmark = pytest.mark.slow

# 60 steps; saved every 4, so that epochs, evaluations and checkpoints do not coincide.
ARGUMENTS = (
    f"--config={cli.ROOT / 'configs/digits.py:ibot'}",
    *cli.TINY[1:],
    "--config.duration=12 epochs",
    "--config.checkpoint.every=4 steps",
    "--config.knn.every=7 epochs",
    "--config.log_every=2 steps",
)
LAST = 60


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    """Returns the workdir of one process's run from start to end."""
    workdir = tmp_path_factory.mktemp("left_alone")
    statuses, _, errors = Run(1, *ARGUMENTS, f"--workdir={workdir}").finish()
    assert statuses == [0], errors
    return workdir


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_a_run_goes_on_whatever_the_number_of_processes(left_alone, tmp_path):
    """2 x 4 devices, told to stop; 2 x 4, killed; 1 x 8, told to stop; 4 x 2 to the end.

    With the state on each device first, then in parts, then in parts of tensors, too.
    """
    arguments = (*ARGUMENTS, f"--workdir={tmp_path}")

    run = Run(2, *arguments)
    cli.wait_for_step(tmp_path, 4, run.processes[0])
    run.processes[1].send_signal(signal.SIGTERM)  # this one alone
    statuses, outs, errors = run.finish()
    assert statuses == [143, 143], errors
    assert "SIGTERM: stopped and saved at step" in outs[0]
    stopped = int(outs[0].rsplit("saved at step ", 1)[1].split()[0])
    assert saved_steps(tmp_path)[-1] == stopped

    run = Run(2, *arguments)
    cli.wait_for_step(tmp_path, stopped + 8, run.processes[0])
    run.processes[0].kill()
    statuses, _, errors = run.finish()  # the other one ends by itself
    assert statuses == [-signal.SIGKILL, 1]
    assert errors[1].startswith("error: process 0 on ") and errors[1].count("\n") == 1
    killed = saved_steps(tmp_path)[-1]
    assert stopped + 8 <= killed < LAST - 12

    run = Run(1, *arguments, "--config.mesh.fsdp=4")
    cli.wait_for_step(tmp_path, killed + 4, run.processes[0])
    run.processes[0].send_signal(signal.SIGTERM)
    statuses, outs, errors = run.finish()
    assert statuses == [143], errors
    assert f"resumed at step {killed}" in outs[0]

    parts = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    statuses, outs, errors = Run(4, *arguments, *parts).finish()
    assert statuses == [0] * 4, errors
    assert "8 x cpu, 4 processes" in outs[0]
    assert "ibot_jax" not in "".join(outs[1:])  # the first process speaks for all

    # Sums over devices are formed in another order; the rest is that of the key biases, whose
    # gradient is 0 but for rounding, which AdamW scales up.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-5),
        restored(tmp_path, LAST),
        restored(left_alone, LAST),
    )
    rows, expected = cli.rows(tmp_path), cli.rows(left_alone)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row.get("loss", 0), other.get("loss", 0), rtol=1e-5)
        assert row.get("knn_top1") == other.get("knn_top1")
        assert abs(row.get("probe_top1", 0) - other.get("probe_top1", 0)) <= 2  # one image
        np.testing.assert_allclose(
            row.get("feature_rank", 0), other.get("feature_rank", 0), rtol=1e-3
        )


OVER_A_BATCH = (
    *("--config.method=dinov2", "--config.loss.targets=sinkhorn"),
    *("--config.loss.koleo_weight=0.1", "--config.head.separate=true"),
    *("--config.head.shared=false", "--config.head.shared_teacher=false"),
)
GRAM = ("--config.gram.weight=2", "--config.gram.start=1 steps", "--config.gram.every=1 steps")


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (OVER_A_BATCH, {"koleo_loss", "sinkhorn_patch_error"}),
        ((*GRAM, "--config.mesh.fsdp=8"), {"gram_loss", "gram_drift"}),
    ],
    ids=["dinov2", "gram"],
)
def test_losses_do_not_depend_on_the_number_of_processes(keys, names, tmp_path):
    """In float64: of neighbours on other processes, and of a gram teacher in parts on them, too.

    Views become larger after the first step.
    """
    rows = []
    for count in (1, 2):
        workdir = tmp_path / str(count)
        run = Run(
            count,
            *(*cli.TINY, f"--workdir={workdir}", "--config.duration=3 steps", *keys),
            *("--config.dtype=float64", "--config.knn.every=", "--config.checkpoint.every=3 steps"),
            *("--config.optim.warmup=1 steps", "--config.optim.freeze_last_layer=1 steps"),
            *("--config.loss.teacher_temp_warmup=1 steps", "--config.high_res.last=2 steps"),
            *("--config.high_res.global_sides=32,", "--config.high_res.local_sides=24,"),
        )
        statuses, outs, errors = run.finish()
        assert statuses == [0] * count, errors
        assert "from step 1 on: views of 32 x 32 and 24 x 24 px" in outs[0]
        rows.append(cli.rows(workdir))
    assert [row["step"] for row in rows[0]] == [1, 2, 3] and rows[0][-1].keys() >= names
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"mask_ratio", "masked_capacity_used"}:  # float32, and by device
            np.testing.assert_allclose(two[name], one[name], rtol=1e-10, err_msg=name)


@pytest.fixture
def folders(tmp_path):
    """Returns two working directories, in each a folder of 32 images."""
    rng = np.random.default_rng(0)
    for host in ("a", "b"):
        (tmp_path / host / "images").mkdir(parents=True)
        for index in range(32):
            pixels = rng.integers(0, 256, (20, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / host / "images" / f"{index}.png")
    return tmp_path / "a", tmp_path / "b"


UNLABELLED = (
    "--config.batch_size=16",
    "--config.data.max_per_class=0",
    "--config.data.source=folder:images",
    "--config.knn.every=",
)


def test_too_many_bad_images_on_one_host_end_the_run_on_both(folders, tmp_path):
    for image in sorted((folders[1] / "images").iterdir())[:8]:
        image.write_bytes(b"no image")
    workdir = tmp_path / "run"
    arguments = (*ARGUMENTS, *UNLABELLED, "--config.data.max_bad_share=0.2", f"--workdir={workdir}")
    statuses, _, errors = Run(2, *arguments, folders=folders).finish()
    assert statuses == [1, 1], errors
    message = "7 images could not be read"
    assert errors[0].startswith("error: process 1 on ") and errors[0].count("\n") == 1
    assert message in errors[0]
    *skipped, last = errors[1].splitlines()
    assert all(line.startswith("warning: skipped") for line in skipped)
    assert last.startswith(f"error: {message}")
    assert len(saved_steps(workdir)) == 1


def test_a_mistake_on_one_host_ends_the_run_on_both(folders, tmp_path):
    (folders[1] / "images").rename(folders[1] / "elsewhere")
    arguments = (*ARGUMENTS, *UNLABELLED, f"--workdir={tmp_path / 'run'}")
    statuses, _, errors = Run(2, *arguments, folders=folders).finish()
    assert statuses == [2, 2], errors
    assert errors[0].startswith("error: process 1 on ") and errors[0].count("\n") == 1
    assert errors[1].startswith("error: ") and errors[1].count("\n") == 1
    assert not (tmp_path / "run/checkpoints").exists()


def test_processes_with_different_configs_are_refused(folders, tmp_path):
    config = cli.ROOT / "configs/digits.py"
    for host, folder in enumerate(folders):
        (folder / "own.py").write_text(
            f"import importlib.util as util\n"
            f"spec = util.spec_from_file_location('digits', {str(config)!r})\n"
            f"digits = util.module_from_spec(spec)\nspec.loader.exec_module(digits)\n"
            f"def get_config():\n    c = digits.get_config('ibot')\n"
            f"    c.seed = {host}\n    return c\n"
        )
    arguments = ("--config=own.py", *ARGUMENTS[1:], f"--workdir={tmp_path / 'run'}")
    statuses, _, errors = Run(2, *arguments, folders=folders).finish()
    assert statuses == [2, 2], errors
    assert all("process 1 has another config than process 0" in error for error in errors)


def test_networks_that_differ_between_hosts_are_those_of_the_first(folders, tmp_path):
    """As where a run goes on, and saves, while another one starts from it."""
    at_rest = dict(lr="1e-10", min_lr="0", warmup="0 steps", freeze_last_layer="0 steps")
    arguments = (
        f"--config={cli.ROOT / 'configs/digits.py:ibot'}",
        *cli.TINY[1:],
        *(f"--config.optim.{key}={value}" for key, value in at_rest.items()),
        "--config.data.local_views=0",
        "--config.duration=2 steps",
        "--config.loss.teacher_temp_warmup=0 steps",
        "--config.knn.every=",
        "--config.teacher_momentum=1",
    )
    config = parse_config(["", *arguments], flags.FlagValues())
    state = jax.jit(make_init(config, make_plan(config, 160)))(jax.random.key(0))
    started = jax.device_get(state.params)
    for host in folders:
        save_run(host / "start", config, state)
        state = jax.tree.map(lambda x: x + x, state)
    parts = ("--config.mesh.fsdp=8", "--config.init_from=start")
    teacher = ("--config.method=distillation", "--config.frozen.teacher=start")
    workdir = tmp_path / "run"
    run = Run(2, *arguments, *parts, *teacher, f"--workdir={workdir}", folders=folders)
    statuses, _, errors = run.finish()
    assert statuses == [0, 0], errors
    found = restored(workdir, 2)
    for name in ("student", "teacher"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), found[name], started)
    _, copy = ibot_jax.load(str(workdir / "frozen/teacher.npz"), head=True)
    jax.tree.map(np.testing.assert_array_equal, copy, started)
