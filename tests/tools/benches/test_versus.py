"""Our step beside the original's in PyTorch: the same numbers, in turns, mistakes in one line."""

import dataclasses
import json
import stat
import sys

import cli
import jax
import numpy as np
import pytest
from tiny import normalized, tiny_batch, tiny_config, tiny_plan

from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training
from ibot_jax.tools import bench
from ibot_jax.tools.benches import versus
from ibot_jax.weights.foreign.original_names import to_torch

SMALL = [*cli.TINY, "--config.data.source=synthetic", "--config.data.channels=3"]
SMALL += [f"--config.data.{key}=0.5,0.5,0.5" for key in ("mean", "std")]
ONE = make_mesh(jax.devices()[:1])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("style", ["original", "best"])
def test_both_take_the_same_step(style, shared, tmp_path):
    pytest.importorskip("torch")
    import torch

    from ibot_jax.tools.benches import torch_step

    config = tiny_config(
        head__shared=shared,
        head__shared_teacher=shared,
        head__norm_last_layer=False,
        optim__warmup="0 epochs",
        optim__freeze_last_layer="0 epochs",
        optim__lr=1e-3,
        optim__clip=0.05,
        data__augment="host",
    )
    state = jax.jit(training.make_init(config, tiny_plan(config)))(jax.random.key(0))
    batch = tiny_batch(config)

    views = {
        f"{kind}_views": normalized(config, batch[f"{kind}_views"]).transpose(1, 0, 4, 2, 3)
        for kind in ("global", "local")
    }
    spec = versus.torch_spec(config, style)
    tensors = {name: np.array(x) for name, x in to_torch(jax.device_get(state.params), 4).items()}
    np.savez(
        tmp_path / "spec.npz",
        spec=json.dumps(spec),
        masks=batch["masks"].swapaxes(0, 1)[None],
        **{k: np.ascontiguousarray(v, np.float32) for k, v in (tensors | views).items()},
    )
    if style == "best":
        torch.compile = lambda module: module  # its numbers are its own affair
    step, batches = torch_step.load(tmp_path / "spec.npz", torch.device("cpu"))
    loss = float(step(*batches[0]))

    moved, metrics = jax.jit(training.make_train_step(config, tiny_plan(config), ONE))(
        state, batch, jax.random.key(0)
    )
    assert loss == pytest.approx(float(metrics["loss"]), rel=1e-5)
    for network, params in (
        (step.student, moved.params),
        (step.teacher, teacher_params(moved)),
    ):
        want = to_torch(jax.device_get(params), 4)
        for name, tensor in network.state_dict().items():
            np.testing.assert_allclose(tensor, want[name], rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.fixture
def stub(tmp_path):
    """Returns a program in place of Python, and what it noted of each turn."""
    program = tmp_path / "python"
    program.write_text(
        f"""#!{sys.executable}
import json, pathlib, sys, time
import numpy as np
spec = np.load(sys.argv[2])
print(json.dumps(dict(torch="9.9", device="stub", threads=1, loss=0.0)), flush=True)
notes = pathlib.Path({str(tmp_path)!r}) / "notes"
for line in sys.stdin:
    with notes.open("a") as file:
        print(int(line), spec["masks"].shape, json.loads(str(spec["spec"]))["width"], file=file)
    print(json.dumps(dict(seconds=100.0 * int(line), loss=0.0, peak_bytes=1)), flush=True)
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program, tmp_path / "notes"


def test_rounds_and_ratios(stub, tmp_path, capsys):
    program, notes = stub
    out = tmp_path / "report.json"
    arguments = ["--batch-size=4", "--rounds=3", "--steps=2", f"--python={program}"]
    assert bench.main(["versus", *SMALL, *arguments, f"--json={out}"]) == 0
    report = json.loads(out.read_text())
    assert notes.read_text().splitlines() == ["2 (4, 2, 4, 3, 3) 16"] * 3
    assert report["theirs"] == [100.0] * 3
    np.testing.assert_allclose(report["ratio"], 100 / np.array(report["ours"]))
    printed = capsys.readouterr().out
    assert "original, PyTorch 9.9 on stub, 1 thread(s)  0.04 images/s" in printed
    assert "the median of 3 rounds" in printed


MISTAKES = {
    "no program": (["--python=/nowhere/python"], "--python=/nowhere/python does not start"),
    "no steps": (["--steps=0"], "argument --steps: 0 is not above 0"),
    "another method": (["--config.method=dino"], "method='dino' is none of the original's"),
    "float64": (["--config.dtype=float64"], "dtype='float64' is not timed"),
    "heads": (["--config.head.separate=True"], "head.s"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert bench.main(["versus", *SMALL, *arguments]) == 2
    line, *others = capsys.readouterr().err.strip().splitlines()
    assert not others and line.startswith(f"error: {message}")


def test_a_python_that_fails_says_why(tmp_path, capsys):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no torch here' >&2\nexit 1\n")
    program.chmod(0o755)
    assert bench.main(["versus", *SMALL, f"--python={program}"]) == 2
    assert capsys.readouterr().err.strip().endswith("ModuleNotFoundError: no torch here")


def test_every_value_of_the_spec_is_there():
    torch_step = pytest.importorskip("ibot_jax.tools.benches.torch_step", reason="needs PyTorch")
    fields = {field.name for field in dataclasses.fields(torch_step.Spec)}
    assert versus.torch_spec(tiny_config(), "best").keys() == fields
