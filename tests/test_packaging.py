"""What `pip install .` installs works from any folder."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PARTS = ("configs", "ibot_jax", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Returns a folder with an installed wheel, and one to work in."""
    source, site, elsewhere = (
        tmp_path_factory.mktemp(name) for name in ("source", "site", "elsewhere")
    )
    for name in PARTS:  # a copy, for building leaves files behind
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, f"--target={site}", str(source)], check=True, capture_output=True)
    return site, elsewhere


@pytest.fixture
def run(installed):
    """Returns a function that runs the installed `ibot-jax`."""
    site, elsewhere = installed

    def run(*arguments):
        return subprocess.run(
            [sys.executable, str(site / "bin/ibot-jax"), *arguments],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("config", ["vits16", "configs/vits16.py", "vitb16:v5e-256"])
def test_configs_are_in_the_wheel(run, config):
    """The mistake shows that the config was read."""
    done = run("main", f"--config={config}", "--config.seed=-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: seed=-1 must be from 0 to 4294967295\n"


@pytest.mark.slow
def test_a_config_of_ones_own_and_a_wrong_name(run, installed):
    text = (
        "from ibot_jax.config import get_config as d\ndef get_config():\n  c = d()\n  c.seed = -7\n"
    )
    (installed[1] / "mine.py").write_text(f"{text}  return c\n")
    assert run("main", "--config=mine.py").stderr.startswith("error: seed=-7 must be")
    assert "by name there are cifar10, continue, digits, " in run("main", "--config=none").stderr


@pytest.mark.slow
def test_the_command_lists_its_commands_and_runs_them(run):
    done = run()
    assert done.returncode == 0
    for name in ("main", "evaluate", "embed", "visualize", "export", "convert", "bench", "replay"):
        assert f"\n  {name} " in done.stdout
        assert name in run("nothing").stderr
    assert run("nothing").returncode == 2
    assert "--config.optim.lr=0.0005\n" in run("main", "--help=config").stdout
