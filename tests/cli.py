"""The command line as a user runs it, with a model that trains in seconds."""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
_PATIENCE = 900  # seconds, after which a process hangs; busy machines are slow

# 160 digits: 5 steps an epoch.
TINY = (
    "--config=configs/digits.py:ibot",
    "--config.duration=2 epochs",
    "--config.batch_size=32",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.heads=2",
    "--config.head.hidden_dim=16",
    "--config.head.bottleneck_dim=8",
    "--config.head.prototypes=16",
    "--config.head.patch_prototypes=16",
    "--config.loss.teacher_temp_warmup=1 epochs",
    "--config.optim.warmup=1 epochs",
    "--config.data.max_per_class=16",
    "--config.data.local_views=1",
    "--config.data.workers=1",
    "--config.knn.max_train_per_class=16",
    "--config.knn.max_test_per_class=5",
    "--config.knn.every=1 epochs",
    "--config.checkpoint.every=1 epochs",
    "--config.log_every=1 steps",
)


def start(*arguments: str) -> subprocess.Popen:
    """Starts the command on one device."""
    return subprocess.Popen(
        [sys.executable, "-m", "ibot_jax.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Waits; returns exit status, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=_PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


def rows(workdir: pathlib.Path) -> list[dict]:
    """Returns the lines of metrics.jsonl without what time may change: speed and shares of time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {
            name: value
            for name, value in json.loads(line).items()
            if name != "images_per_second" and not name.startswith("share_")
        }
        for line in lines
    ]


def wait_for_step(workdir: pathlib.Path, step: int, process: subprocess.Popen) -> None:
    """Waits for a complete checkpoint of this step or a later one."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        folder = workdir / "checkpoints"
        names = os.listdir(folder) if folder.exists() else []
        if any(name.isdecimal() and int(name) >= step for name in names):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not saved: {finish(process)}")
