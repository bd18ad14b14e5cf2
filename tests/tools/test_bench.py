"""The command that times the step: what it reports, and mistakes that end in one line."""

import json
import math
import os
import subprocess
import sys

import cli
import jax
import pytest
import quick

from ibot_jax.tools import bench
from ibot_jax.tools.benches import step

TINY = [*cli.TINY, "--config.batch_size=8"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Runs the command on two devices, once; returns its process and the folder it writes to."""
    folder = tmp_path_factory.mktemp("bench")
    code = (
        "import sys; from ibot_jax.tools.bench import main; status = main(sys.argv[1:]);"
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    outputs = [f"--json={folder / 'report.json'}", f"--trace={folder / 'trace'}"]
    process = subprocess.run(
        [sys.executable, "-c", code, "step", *TINY, "--batch-size=12", "--steps=3", *outputs],
        cwd=cli.ROOT,
        env=os.environ | {"XLA_FLAGS": quick.flags(2), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    return process, folder


@pytest.fixture
def report(done):
    process, folder = done
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "report.json").read_text())


def test_the_step_runs_and_is_described(report):
    assert report["config"] == "configs/digits.py:ibot"
    assert (report["batch_size"], report["dtype"]) == (12, "float32")
    assert (report["device"], report["devices"]) == ("cpu", 2)
    # Patch embedding, class and mask token, 10 positions, one block, norm; the head.
    block = 2 * 32 + 16 * 48 + 48 + 16 * 16 + 16 + 2 * 16 * 64 + 64 + 16
    assert report["parameters"] == {
        "backbone": 64 * 16 + 16 + 16 + 16 + 10 * 16 + block + 32,
        "head": 2 * (16 * 16 + 16) + 16 * 8 + 8 + 8 * 16 + 16,
    }
    assert report["finite"] and math.isfinite(report["loss"])


def test_speeds_follow_from_the_times(report):
    seconds = sorted(report["step_seconds"])
    assert len(seconds) == 3
    assert report["images_per_second"] == pytest.approx(12 / seconds[1])
    assert report["images_per_second_per_device"] == pytest.approx(6 / seconds[1])
    model = sum(sum(kinds.values()) for kinds in report["model_flops_per_image"].values())
    assert report["model_flops_per_image_total"] == model
    assert report["mfu"] * report["peak_flops_per_second"] == pytest.approx(6 / seconds[1] * model)
    assert report["peak"] == "measured matrix product, 1024 x 1024, float32"


def test_the_compiler_counts_the_work_of_all_devices(report):
    """Far from equal in so small a model, whose elementwise operations count for much."""
    ratio = report["compiler_to_model_flops"]
    assert 1 < ratio < 4
    model = report["model_flops_per_image_total"]
    assert report["compiler_flops_per_image"] == pytest.approx(ratio * model)


def test_memory_holds_the_state_and_half_of_the_batch(report):
    """Parameters, teacher and two moments; then views, masks, colours of 12 columns."""
    memory = report["memory_bytes"]
    state = 4 * 4 * sum(report["parameters"].values())
    views = 2 * (24 * 24 + 9) + 16 * 16
    batch = 6 * (views + 3 * 12 * 4)
    assert memory["arguments"] == pytest.approx(state + batch, rel=0.05)
    assert memory["aliased"] == pytest.approx(state, rel=0.05)
    assert memory["total"] >= memory["arguments"] + memory["temporaries"]


def test_masks_are_drawn_as_in_training(report):
    """Two views of 9 patches; a ratio of 0 or 0.3 each, the latter give or take 0.2."""
    masked = report["masked_tokens_per_image"]
    assert masked["expected"] == pytest.approx(2 * 9 * 0.15)
    assert 0 < masked["drawn"] < 2 * 9 * 0.5


def test_the_table_has_what_the_report_has(done, report):
    out = done[0].stdout
    for text in (
        "configs/digits.py:ibot --config.duration=2 epochs",
        "2 x cpu",
        "12 images, float32",
        f"{report['loss']:.4f}",
        f"{report['compiler_to_model_flops']:.3f} x the model's",
        f"{100 * report['mfu']:.1f} % MFU",
        "teacher backbone",
        "temporaries",
    ):
        assert text in out


def test_a_trace_is_written(done, report):
    assert list((done[1] / "trace").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steep"], "'steep' is no measurement; there are check, step, versus, suite, input"),
        (["step"], "--config"),
        (["step", "--config=configs/none.py"], "there is no file configs/none.py"),
        (["step", *TINY, "--config.optim.lrr=1"], "did you mean optim.lr?"),
        (["step", *TINY, "--config.optim.lr=high"], "config.optim.lr=high has the wrong type"),
        (["step", *TINY, "--batch-size=0"], "batch_size=0 must be from 1 to"),
        (["step", *TINY, "--batch-size=many"], "argument --batch-size: invalid int value: 'many'"),
        (["step", *TINY, "--batch-size=12"], "batch_size=12 is not divisible by the 8 devices"),
        (
            [
                "step",
                *TINY,
                *(f"--config.head.{p}prototypes=1000000000000" for p in ("", "patch_")),
            ],
            "of memory at the least",
        ),
        (["step", *TINY, "--steps=0"], "--steps=0"),
        (["step", *TINY, "--stepz=3"], "stepz"),
        (["step", *TINY, "--json=nowhere/report.json"], "nowhere/report.json cannot be written"),
        (["step", *TINY, "--trace=README.md"], "README.md cannot be written"),
        (["step", *TINY, "surplus"], "'surplus' is no flag"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(cli.ROOT)
    assert bench.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not out


def test_a_loss_that_is_not_finite_is_a_failure(report, monkeypatch, capsys):
    broken = report | {"finite": False, "loss": None}
    monkeypatch.setattr(step, "measure", lambda *args, **kwargs: broken)
    monkeypatch.chdir(cli.ROOT)
    assert bench.main(["step", *TINY]) == 1
    assert "NOT FINITE" in capsys.readouterr().out


def test_a_batch_too_large_for_the_devices_is_one_line(monkeypatch, capsys):
    def measure(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 1 byte")

    monkeypatch.setattr(step, "measure", measure)
    monkeypatch.chdir(cli.ROOT)
    assert bench.main(["step", *TINY]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: batch_size=8 does not fit") and err.count("\n") == 1


def test_help_tells_the_measurements_and_the_options_of_each(capsys):
    assert bench.main(["--help"]) == 0
    assert "\n  step " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="^0$"):
        bench.main(["step", "--help"])
    assert "--trace" in capsys.readouterr().out
