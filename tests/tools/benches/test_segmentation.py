"""bench segmentation: both sides take the same step of the head; mistakes in one line."""

import dataclasses
import json
import pathlib
import stat
import sys

import cli
import jax
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.evaluate.probes import segmentation_head
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.tools import bench
from ibot_jax.tools.benches import segmentation
from ibot_jax.weights.foreign.original_names import to_torch
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model

CROP = 24
SMALL = ["segmentation", *cli.TINY, "--config.data.source=synthetic", "--config.data.channels=3"]
SMALL += [f"--config.data.{key}=0.5,0.5,0.5" for key in ("mean", "std")]
SMALL += ["--batch-size=2", "--rounds=2", "--steps=1", f"--crop={CROP}"]


@pytest.fixture
def torch_segmentation(monkeypatch):
    """Returns the program's module, which is imported as it finds its neighbour when it runs."""
    pytest.importorskip("torch")
    folder = str(pathlib.Path(segmentation.__file__).parent)
    monkeypatch.setattr(sys, "path", [*sys.path, folder])
    import torch_segmentation

    return torch_segmentation


@pytest.mark.parametrize("name", ["dinov2", "ibot"])
def test_both_take_the_same_step(name, torch_segmentation, tmp_path):
    import torch

    config = tiny_config(
        model__depth=4,
        data__channels=3,
        data__mean=(0.4, 0.5, 0.6),
        data__std=(0.2, 0.25, 0.3),
    )
    protocol = segmentation.PROTOCOLS[name]
    model, params = untrained(Model(config, "tiny"))
    mesh = make_mesh(jax.devices()[:1])
    setting = segmentation.make_setting(protocol, model, params, CROP, 2, mesh)
    batches = segmentation.draw(2, CROP)
    batches["labels"][:, :, :5] = 255  # pixels that count as 0 in the mean
    ours = segmentation.Ours(setting, batches)
    (head, running), _ = jax.device_get(ours.state)
    tokens = setting.patch_fn(setting.params, batches["images"][0])
    values, _ = segmentation_head.training_logits(head, running, tokens, jax.random.key(0), 0.0)
    loss = segmentation_head.loss(values, batches["labels"][0])

    def torch_head(head, running):
        tensors = {"conv.weight": head.kernel.T[..., None, None], "conv.bias": head.bias}
        if head.scale is not None:
            tensors |= {"norm.weight": head.scale, "norm.bias": head.offset}
            tensors |= {"norm.running_mean": running.mean, "norm.running_var": running.variance}
        return tensors

    spec = segmentation.torch_spec(config, protocol, "original")
    assert {field.name for field in dataclasses.fields(torch_segmentation.Spec)} == spec.keys()
    tensors = to_torch(jax.device_get(params), 4) | {
        f"head.{key}": np.asarray(x) for key, x in torch_head(head, running).items()
    }
    if protocol.batch_norm == "on":
        tensors["head.norm.num_batches_tracked"] = np.array(0)
    np.savez(tmp_path / "spec.npz", spec=json.dumps(spec), **batches, **tensors)
    step, drawn = torch_segmentation.load(tmp_path / "spec.npz", torch.device("cpu"))
    assert float(step(*drawn[0])) == pytest.approx(float(loss), rel=1e-5)

    ours.run(1)
    (moved, seen), _ = jax.device_get(ours.state)
    found = step.head.state_dict()
    for key, want in torch_head(moved, seen).items():
        # Of the first step of Adam every entry moves by the rate: 1e-3, of which this is 1 %.
        np.testing.assert_allclose(found[key], want, rtol=1e-4, atol=1e-5, err_msg=key)
    assert np.abs(moved.kernel - head.kernel).max() > 5e-4


@pytest.fixture
def stub(tmp_path):
    """Returns a program in place of Python, which says what it was given."""
    program = tmp_path / "python"
    program.write_text(
        f"""#!{sys.executable}
import json, pathlib, sys
import numpy as np
spec = np.load(sys.argv[2])
assert pathlib.Path(sys.argv[1]).name == "torch_segmentation.py"
device = "x".join(map(str, spec["images"].shape))
print(json.dumps(dict(torch="9.9", device=device, threads=1, loss=0.0)), flush=True)
for line in sys.stdin:
    print(json.dumps(dict(seconds=100.0 * int(line), loss=0.0, peak_bytes=1)), flush=True)
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_rounds_and_ratios(stub, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert bench.main([*SMALL, f"--python={stub}", f"--json={out}"]) == 0
    report = json.loads(out.read_text())
    assert report["theirs"] == [100.0] * 2
    np.testing.assert_allclose(report["ratio"], 100 / np.array(report["ours"]))
    printed = capsys.readouterr().out
    assert f"PyTorch 9.9 on 2x2x{CROP}x{CROP}x3, 1 thread(s)  0.02 images/s" in printed
    assert f"dinov2, crops of {CROP} pixels, 150 classes" in printed
    assert "the median of 2 rounds" in printed


MISTAKES = {
    "no program": (["--python=/nowhere/python"], "--python=/nowhere/python does not start"),
    "part of a patch": (["--crop=25"], "--crop=25 is no multiple of the patch size, 8"),
    "gated": (["--config.model.ffn=swiglu"], "model.ffn='swiglu' is none of the original's"),
    "float64": (["--config.dtype=float64"], "dtype='float64' is not timed"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert bench.main([*SMALL, *arguments]) == 2
    line, *others = capsys.readouterr().err.strip().splitlines()
    assert not others and line.startswith(f"error: {message}")
