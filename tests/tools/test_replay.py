"""Replaying the original's recorded runs: parity, and what is said when there is none."""

import json

import jax
import numpy as np
import pytest

from ibot_jax.tools import replay


@pytest.fixture(autouse=True)
def float64():
    yield
    jax.config.update("jax_enable_x64", False)


def tampered(path, folder, **changes):
    """Writes a copy of a recording with arrays or config entries changed."""
    arrays = dict(np.load(path))
    config = json.loads(str(arrays["config"]))
    for name, change in changes.pop("arrays", {}).items():
        arrays[name] = change(arrays[name])
    arrays["config"] = np.array(json.dumps(config | changes))
    target = folder / "tampered.npz"
    np.savez(target, **arrays)
    return str(target)


def test_the_small_recording_is_reproduced(step_small, capsys):
    assert replay.main([str(step_small)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line.rsplit(maxsplit=2)[0].strip() for line in lines[1:]}
    moments = {
        f"{when} {what}"
        for when in ("epoch1", "final")
        for what in ("student", "teacher", "class center", "patch center")
    }
    assert names == moments | {"total loss", "class loss", "patch loss"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared_head", "separate_head_free_norm", "no_local_crops"])
def test_the_other_recordings_are_reproduced(reference, kind):
    assert replay.main([str(reference(f"step_{kind}.npz"))]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"clip_grad": 0.0},
        {"momentum_teacher": 0.91, "freeze_last_layer": 0},
        {"arrays": {"final/center": lambda center: center + 1e-4 * np.abs(center).max()}},
        {"arrays": {"loss": lambda loss: loss * (1 + 3e-6)}},
    ],
)
def test_a_wrong_number_is_found(step_small, tmp_path, changes):
    assert replay.main([tampered(step_small, tmp_path, **changes)]) == 1


@pytest.mark.parametrize("content", [None, b"not an archive", b""])
def test_an_unreadable_file_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    assert replay.main([str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and str(path) in message and message.count("\n") == 1


def test_a_model_that_is_not_the_described_one_is_refused(step_small, tmp_path, capsys):
    path = tampered(step_small, tmp_path, hidden_dim=20)
    assert replay.main([path]) == 2
    assert "student" in capsys.readouterr().err
