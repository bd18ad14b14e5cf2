"""The command line: a whole run, and mistakes that end in one line."""

import json
import math
import subprocess
import sys

import cli
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ibot_jax import main
from ibot_jax.methods.ibot import IBOT


@pytest.mark.slow
def test_two_epochs_of_digits_from_the_command_line(tmp_path):
    status, out, err = cli.finish(cli.start(*cli.TINY, f"--workdir={tmp_path}"))
    assert status == 0, err
    assert all(line.startswith("warning: at step") for line in err.splitlines())

    header = out.split("teacher at step 0")[0]
    for text in (
        "width 16, depth 1, 2 heads, patch 8",
        "1 x cpu",
        "digits, train: 160 images",
        "k-NN (k = 20) and linear probe, 160 train and 50 test images, every 1 epochs",
        "10 steps of 32 images; 2 epochs of 5 steps",
        str(tmp_path),
    ):
        assert text in header
    assert "step 10/10  epoch 2.0  loss " in out
    assert out.splitlines()[-1] == f"written to {tmp_path}"

    rows = cli.rows(tmp_path)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 11))
    assert [row["step"] for row in rows if "knn_top1" in row] == [0, 5, 10]
    for row in rows:
        if "loss" in row:
            assert math.isclose(row["loss"], row["class_loss"] + row["patch_loss"], rel_tol=1e-6)
            assert row["epoch"] == row["step"] / 5
            assert row["teacher_views_kl"] >= 0
            assert 0 <= row["teacher_student_agreement"] <= 1
        else:
            assert 100 >= row["knn_top5"] >= row["knn_top1"] >= 10  # better than by chance
            assert 100 >= row["probe_top5"] >= row["probe_top1"] >= 10
            assert 1 <= row["feature_rank"] <= 16
            assert 1 / 16 <= row["prototypes_used"] <= 1
            assert 1 / 16 <= row["patch_prototypes_used"] <= 1
            assert 0 <= row["prototype_nmi"] <= 100
    for key, text in (("knn_top1", "k-NN"), ("probe_top1", "linear probe")):
        first, *_, last = [row[key] for row in rows if key in row]
        assert f"{text} {first:.1f} % at initialisation, {last:.1f} % now" in out
    first, *_, last = [row["feature_rank"] for row in rows if "feature_rank" in row]
    assert f"feature rank {first:.1f} at initialisation, {last:.1f} now" in out

    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"5", "10"}
    assert json.loads((tmp_path / "config.json").read_text())["model.width"] == 16
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.fixture
def images(tmp_path):
    """Returns a folder of 16 images without classes."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(16):
        pixels = rng.integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


UNLABELLED = ("--config.batch_size=16", "--config.data.max_per_class=0")


@pytest.mark.slow
def test_without_labels_rank_and_prototypes_are_measured(images, tmp_path, capsys):
    source = f"--config.data.source=folder:{images}"
    arguments = ["main", *cli.TINY, *UNLABELLED, source, f"--workdir={tmp_path}"]
    assert main.main(arguments) == 0
    out, err = capsys.readouterr()
    assert all(line.startswith("warning: at step") for line in err.splitlines())
    assert "rank and prototypes, 16 images without labels, every 1 epochs" in out
    rows = [row for row in cli.rows(tmp_path) if "feature_rank" in row]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all("knn_top1" not in row for row in rows)
    assert "feature rank" in out.splitlines()[-2]


@pytest.mark.slow
@pytest.mark.parametrize("term", ["class", "patch"])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(
    term, monkeypatch, images, tmp_path, capsys
):
    """The patch temperature is 0.04, 0.0475, 0.055, ...; past 0.05 the term is NaN."""
    terms_of = IBOT.terms

    def broken_terms(self, student, views, targets):
        terms = terms_of(self, student, views, targets)
        broken = targets.shared.temps["patch"] > 0.05
        return terms | {f"{term}_loss": jnp.where(broken, jnp.nan, terms[f"{term}_loss"])}

    monkeypatch.setattr(IBOT, "terms", broken_terms)
    arguments = [
        "main",
        *cli.TINY,
        *UNLABELLED,
        f"--config.data.source=folder:{images}",
        "--config.duration=6 steps",
        "--config.knn.every=",
        "--config.checkpoint.every=6 steps",
        "--config.loss.teacher_temp_warmup=5 steps",
        "--config.loss.teacher_patch_temp=0.07",
        f"--workdir={tmp_path}",
    ]
    assert main.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"the {term} loss was not finite at step 3; the state before it is saved" in err
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert [row["step"] for row in cli.rows(tmp_path)] == [1, 2]


MISTAKES = {
    "no config": ([], r"no config is given"),
    "config without a value": (["--config"], "no config is given"),
    "empty config": (["--config="], "no config is given"),
    "no such config": (["--config=configs/none.py"], "there is no file configs/none.py"),
    "unknown key": (
        ["--config=configs/digits.py", "--config.optim.lrr=1"],
        "config.optim.lrr is no key of the config; did you mean optim.lr?",
    ),
    "unknown section": (
        ["--config=configs/digits.py", "--config.optimizer.lr=1"],
        "config.optimizer.lr is no key of the config; did you mean optim.lr?",
    ),
    "a word for a number": (
        ["--config=configs/digits.py", "--config.batch_size=many"],
        "config.batch_size=many has the wrong type; it takes a whole number",
    ),
    "a fraction for a whole number": (
        ["--config=configs/digits.py", "--config.batch_size=1.5"],
        "config.batch_size=1.5 has the wrong type; it takes a whole number",
    ),
    "a word for a truth value": (
        ["--config=configs/digits.py", "--config.head.shared=maybe"],
        "config.head.shared=maybe has the wrong type; it takes true or false",
    ),
    "a word for a tuple": (
        ["--config=configs/digits.py", "--config.masks.ratios=few"],
        "masks.ratios=('few',) has the wrong type",
    ),
    "a section": (
        ["--config=configs/digits.py", "--config.optim={}"],
        "config.optim is a section; set its keys one by one",
    ),
    "unknown flag": (
        ["--config=configs/digits.py", "--work_dir=x"],
        "Unknown command line flag 'work_dir'. Did you mean: workdir ?; see --help",
    ),
    "stray word": (["--config=configs/digits.py", "batch_size=8"], "'batch_size=8' is no flag"),
    "unknown variant": (["--config=configs/cifar10.py:best"], "there is no variant 'best'"),
    "impossible masks": (
        ["--config=configs/digits.py", "--config.masks.ratios=0.1", "--config.masks.variances=0.2"],
        "masks.ratios=(0.1,) has 0.1 below its variance 0.2",
    ),
    "crop and patch": (
        ["--config=configs/digits.py", "--config.model.patch_size=5"],
        "must be divisible by model.patch_size=5",
    ),
    "batch and devices": (  # eight of them in the tests
        ["--config=configs/digits.py", "--config.batch_size=12"],
        "batch_size=12 is not divisible by the 8 devices",
    ),
    "batch and data": (
        ["--config=configs/digits.py", "--config.batch_size=4096"],
        "batch_size=4096 is larger than the data set (1442 images)",
    ),
    "unknown data": (
        ["--config=configs/digits.py", "--config.data.source=mnist"],
        "data.source='mnist' is unknown",
    ),
    "no such folder": (
        ["--config=configs/cifar10.py", "--config.data.source=folder:/nowhere"],
        "/nowhere",
    ),
    "a run shorter than its warm-up": (
        ["--config=configs/digits.py", "--config.duration=10 steps"],
        "duration='10 steps' (10 steps) is too short for optim.warmup='4 epochs' (180 steps), ",
    ),
    "more neighbours than images": (
        ["--config=configs/digits.py", "--config.knn.k=5000"],
        "knn.k=5000 is larger than the 1442 images of digits, train",
    ),
    "a file where the workdir should be": (
        ["--config=configs/digits.py", "--workdir=setup.cfg/run"],
        "cannot be written",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_two(name, monkeypatch, tmp_path, capsys):
    arguments, message = MISTAKES[name]
    (tmp_path / "configs").symlink_to(cli.ROOT / "configs")
    (tmp_path / "setup.cfg").touch()
    monkeypatch.chdir(tmp_path)  # where the default workdir would be made
    assert main.main(["main", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "runs").exists()


BROKEN_CONFIGS = {
    "syntax": ("def get_config(:", "broken.py: SyntaxError"),
    "name": ("def get_config():\n    return confg", "broken.py, line 2: NameError"),
    "no function": ("x = 1", "AttributeError"),
    "no config": ("def get_config():\n    return 3", "returns no ConfigDict"),
    "wrong type": (
        "from ibot_jax.config import get_config as default\n"
        "def get_config():\n    c = default()\n    c.batch_size = 'x'\n    return c",
        "broken.py, line 4: TypeError: Could not override field 'batch_size'",
    ),
    "new key": (
        "from ibot_jax.config import get_config as default\n"
        "def get_config():\n    c = default()\n    c.optim.rate = 1.0\n    return c",
        "config.optim.rate is no key of the config",
    ),
}


@pytest.mark.parametrize("name", BROKEN_CONFIGS)
def test_a_broken_config_file_is_one_line_too(name, monkeypatch, tmp_path, capsys):
    text, message = BROKEN_CONFIGS[name]
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main.main(["main", "--config=broken.py"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --config=broken.py") or name == "new key"
    assert message in err
    assert err.count("\n") == 1


def test_overrides_and_the_default_workdir():
    arguments = main.parse_arguments(
        [
            "main",
            "--config",
            "configs/cifar10.py:reference",
            "--config.data.global_size=(48, 64)",
            "--config.knn.resize=64",
            "--config.optim.lr",
            "1",
            "--config.head.shared=false",
            "--noallow_config_change",
        ]
    )
    config = arguments.config
    assert config.data.global_size == (48, 64)
    assert config.optim.lr == 1.0
    assert config.head.shared is False
    assert config.is_locked
    assert arguments.workdir == "runs/cifar10-reference"
    assert arguments.allow_config_change is False
    assert arguments.coordinator_address is arguments.num_processes is arguments.process_id is None


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("batch_size=0", "batch_size=0 must be from 1 to 10000000"),
        # Then the data is looked at for what else is wrong.
        ("model.depht=3", "config.model.depht is no key of the config; did you mean model.depth?"),
    ],
)
def test_a_mistake_is_found_without_slow_imports_and_without_a_traceback(override, error):
    """As a process of its own: status, screen, and what was imported."""
    code = (
        "import sys; from ibot_jax.main import main;"
        f"status = main(['main', '--config=configs/digits.py', '--config.{override}']);"
        "slow = {'tensorflow', 'jax', 'sklearn', 'scipy', 'pandas'} & set(sys.modules);"
        "print(status, sorted(slow))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cli.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == f"error: {error}\n"
    assert done.stdout == "2 []\n"
