"""The task `finetune`, from the command line to its report, and on from where it stopped."""

import dataclasses
import json
import pathlib
import shutil
import signal

import cli
import numpy as np
import pytest
import runs
from PIL import Image

import ibot_jax
from ibot_jax import export
from ibot_jax.config.ranges import Anything
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.finetune import task as task_module
from ibot_jax.finetune.config import KEYS
from ibot_jax.runs.reporting.reporter import Reporter

# 36 images: 4 steps an epoch, on eight devices.
FLAGS = (
    "--batch-size=16",
    "--config.batch_size=8",
    "--config.duration=6 epochs",
    "--config.optim.lr=0.3",
    "--config.optim.warmup=1 epochs",
    "--config.optim.layer_decay=0.9",
    "--config.data.workers=1",
    "--config.data.scale=(0.5,1.0)",
    "--config.data.rand_augment.ops=1",
    "--config.data.rand_augment.magnitude=3.0",
    "--config.test_every=2 epochs",
    "--config.checkpoint.every=3 steps",
    "--config.log_every=1 steps",
)


@pytest.fixture
def finetune(workdir, images, tmp_path, capsys):
    """Returns a function that runs the task in a folder: status, stdout, stderr."""

    def run(*flags, out=tmp_path / "out"):
        defaults = (f"--from={workdir}", f"--data=folder:{images}", f"--out={out}", *FLAGS)
        given = {flag.partition("=")[0] for flag in flags}
        kept = [flag for flag in defaults if flag.partition("=")[0] not in given]
        try:
            status = command.main(["finetune", *kept, *flags])
        except SystemExit as exited:
            status = exited.code
        printed, err = capsys.readouterr()
        return status, printed, err

    return run


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_test_images_are_resized_as_the_recipe_says(finetune, monkeypatch, interpolation):
    given = []

    def stop(config, flags, task, *_, **__):
        given.append(task)
        raise UserError("that is enough")

    monkeypatch.setattr(task_module, "finetune", stop)
    finetune(f"--config.data.test_interpolation={interpolation}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    view = given[0].views.view
    short = view.resize[0]
    longer = 64 * short // 40
    expected = image.resize((longer, short), Image.Resampling[interpolation.upper()])
    left, top = round((longer - view.size[1]) / 2), round((short - view.size[0]) / 2)
    expected = expected.crop((left, top, left + view.size[1], top + view.size[0]))
    np.testing.assert_array_equal(np.asarray(view.cut(image)), np.asarray(expected))


def rows(out):
    return cli.rows(out / "finetune")


def restored(out, step):
    return runs.restored(out / "finetune", step, runs.FINETUNING)


def leaves(tree, path=""):
    if isinstance(tree, dict):
        return {k: v for name in tree for k, v in leaves(tree[name], f"{path}/{name}").items()}
    if isinstance(tree, list | tuple):
        return leaves(dict(enumerate(tree)), path)
    return {} if tree is None else {path: np.asarray(tree)}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return tmp_path_factory.mktemp("learned")


@pytest.mark.slow
def test_colours_are_learned_and_a_stopped_run_is_the_same_run(finetune, learned, monkeypatch):
    status, printed, err = finetune(out=learned)
    assert (status, err) == (0, "")
    report = json.loads((learned / "finetune.json").read_text())
    assert report["metrics"]["top1"] == report["metrics"]["top5"] == 100.0  # of 33 by chance
    assert report["metrics"]["best_top1"] == 100.0
    assert report["settings"]["recipe"]["optim.lr"] == 0.3
    assert report["settings"]["weights"] == "teacher"
    assert "test at step 24 (epoch 6.0): top-1 100.00 %" in printed
    assert [row["step"] for row in rows(learned) if "test_top1" in row] == [8, 16, 24]
    trained = [row for row in rows(learned) if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, 25))
    assert {"lr", "grad_norm", "epoch"} <= trained[0].keys()
    assert (learned / "finetune/checkpoints/24").is_dir()

    status, printed, _ = finetune(out=learned)
    assert status == 0 and "the run is complete" in printed
    assert json.loads((learned / "finetune.json").read_text()) == report

    (learned / "finetune/metrics.jsonl").rename(learned / "moved")
    status, printed, err = finetune(out=learned)  # what is lost is measured again
    assert (status, err) == (0, "") and "test at step 24 (epoch 6.0): top-1 100.00 %" in printed
    again = json.loads((learned / "finetune.json").read_text())
    assert again["metrics"] == report["metrics"]
    (learned / "moved").replace(learned / "finetune/metrics.jsonl")

    stopped = learned.with_name("stopped")
    for number, step, code in ((signal.SIGTERM, 5, 143), (signal.SIGINT, 16, 130)):
        with monkeypatch.context() as patched:
            patched.setattr(Reporter, "step_done", interrupt_at(step, number))
            status, printed, err = finetune(out=stopped)
        assert status == code, err
        assert f"{signal.Signals(number).name}: stopped and saved at step" in printed
        assert int(printed.rsplit("saved at step ", 1)[1].split()[0]) >= step
        assert not (stopped / "finetune.json").exists()
    status, printed, _ = finetune(out=stopped)
    assert status == 0 and "resumed at step" in printed
    assert rows(stopped) == rows(learned)
    found, expected = (leaves(restored(out, 24)) for out in (stopped, learned))
    assert found.keys() == expected.keys() and len(found) > 60
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def interrupt_at(step, number):
    def step_done(self, done, metrics):
        if done == step:
            signal.raise_signal(number)

    return step_done


@pytest.mark.slow
def test_another_recipe_on_the_same_folder_is_refused(finetune, learned):
    status, _, err = finetune("--config.optim.lr=0.1", "--train-split=test", out=learned)
    (line,) = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert status == 2 and line.startswith("error: ")
    assert 'flags.train_split was "train", now "test"; optim.lr was 0.3, now 0.1' in line
    assert "choose another --out" in line


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_saved(finetune, tmp_path, monkeypatch):
    any_rate = dataclasses.replace(KEYS["optim.lr"], takes=Anything())
    monkeypatch.setitem(KEYS, "optim.lr", any_rate)  # else refused
    status, _, err = finetune(
        "--config.optim.lr=1e30", "--config.optim.warmup=0 epochs", "--size=24"
    )
    assert status == 1 and err.count("\n") == 1
    assert "not finite at step" in err and "lower optim.lr" in err
    step = int(err.split("at step ")[1].split(";")[0])
    arrays = leaves(restored(tmp_path / "out", step - 1))
    assert all(np.isfinite(array).all() for array in arrays.values())
    # The positions of 6 x 6 patches of 4 pixels, not of the model's 4 x 4.
    assert arrays["/params/backbone/pos_embed"].shape == (1, 37, 16)


@pytest.mark.slow
def test_adapters_learn_colours_go_on_and_are_merged_in_what_is_loaded(
    finetune, learned, workdir, monkeypatch
):
    flags = "--config.lora.rank=4", "--config.duration=8 steps", "--config.optim.lr=0.3"
    whole, stopped = (learned.with_name(name) for name in ("adapted", "adapted_stopped"))
    status, printed, err = finetune(*flags, out=whole)
    assert (status, err) == (0, "") and "learns" in printed
    with monkeypatch.context() as patched:
        patched.setattr(Reporter, "step_done", interrupt_at(5, signal.SIGTERM))
        assert finetune(*flags, out=stopped)[0] == 143
    assert finetune(*flags, out=stopped)[0] == 0
    parts = (*runs.FINETUNING, "lora")
    found, expected = (
        leaves(runs.restored(out / "finetune", 8, parts)) for out in (stopped, whole)
    )
    assert any("adapters" in name for name in expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    _, before = ibot_jax.load(workdir)
    model, params = ibot_jax.load(str(whole / "finetune"), head=True)
    assert set(params) == {"backbone", "classifier"} and model.classifier["names"]
    moved = {
        name.rpartition("/")[0]
        for name, array in leaves(params["backbone"]).items()
        if not np.array_equal(array, leaves(before["backbone"])[name])
    }
    assert moved == {
        f"/blocks_{block}/{layer}"
        for block in (0, 1)
        for layer in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
    }


@pytest.mark.slow
def test_the_projection_is_kept_where_the_weights_have_one(finetune, workdir, tmp_path):
    flags = ("--config.start=projection", "--config.duration=1 steps", "--config.optim.warmup=0")
    exported = str(tmp_path / "headless.npz")
    export.export(workdir, exported, to="npz")
    status, _, err = finetune(*flags, f"--from={exported}")
    assert status == 2 and "holds no head; export it anew with --head" in err
    assert finetune(*flags, "--weights=student")[0] == 0
    shapes = {k: v.shape for k, v in leaves(restored(tmp_path / "out", 1)["params"]).items()}
    assert shapes["/projection/kernel"] == (16, 24) and shapes["/classifier/kernel"] == (24, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.optim.layer_decy=1"], "did you mean optim.layer_decay?"),
        (["--layer_decay=0.5"], "see --help"),
        (["--config=nowhere.py"], "there is no file nowhere.py"),
        (["--config.start=middle"], "start='middle' is unknown; use backbone or projection"),
        (["--config.drop_path=1.0"], "drop_path=1.0 must be from 0 to 0.99"),
        (["--config.batch_size=7"], "batch_size=7 is odd, but images are mixed in pairs"),
        (["--config.batch_size=12"], "batch_size=12 is not divisible by the 8 devices; 16 is"),
        (["--config.batch_size=64"], "batch_size=64 is larger than the data set (36 images)"),
        (
            ["--config.optim.warmup=6 epochs"],
            "duration='6 epochs' is too short for optim.warmup='6 epochs'",
        ),
        (["--config.test_every=0"], "test_every='0' is less than one step; make it longer"),
        (
            ["--config.optim.freeze=backbone: 1 epochs"],
            "a fine-tuning freezes all along: write 100%",
        ),
        (["--config.optim.freeze=backbon: 100%"], "'backbon'"),
        (["--config.lora.alpha=3"], "lora.alpha=3.0 needs a positive lora.rank"),
        (
            ["--config.lora.rank=2", "--config.lora.targets=attn/qvk"],
            "names no matrix of the backbone; did you mean attn/qkv?",
        ),
        (["--test-split=val"], "--test-split='val' is no subfolder of"),
        (["--data=synthetic:64"], "has no labels in --train-split=train; this task needs"),
        (["--from=nowhere"], "nowhere does not exist; give a run's workdir, a checkpoint, an"),
    ],
)
def test_mistakes_are_one_line_and_status_2(finetune, flags, message, tmp_path):
    status, printed, err = finetune(*flags)
    assert (status, printed) == (2, ""), err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not list(tmp_path.glob("out/finetune/checkpoints/*"))


def test_images_without_classes_and_other_classes_are_told(finetune, images, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (8, 8)).save(flat / "a.png")
    assert "has no labels" in finetune(f"--data=folder:{flat}", "--test-split=train")[2]
    odd = tmp_path / "odd"
    shutil.copytree(images, odd)
    pathlib.Path(odd / "test/red").rename(odd / "test/pink")
    assert "has other classes" in finetune(f"--data=folder:{odd}")[2]
