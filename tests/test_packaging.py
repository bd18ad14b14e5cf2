"""What is built for an index of packages, installed in a bare venv, works from any folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import cli
import pytest
import quick

import ibot_jax

ROOT = pathlib.Path(__file__).parent.parent
PARTS = (
    *("configs", "ibot_jax", "setup.py", "pyproject.toml", "MANIFEST.in"),
    *("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"),
)


def checked(*words, **options):
    """Runs a program, which has to succeed; returns what it prints."""
    done = subprocess.run(words, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns a folder with the sdist, and the wheel that was made of the sdist."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    for name in PARTS:  # a copy, for building leaves files behind
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    # Isolation would download setuptools.
    checked(sys.executable, "-m", "build", "--no-isolation", f"--outdir={out}", str(source))
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Returns a venv with the wheel, and a folder to work in.

    What the wheel depends on, gigabytes, is not downloaded once more: a .pth shows the packages of
    the venv that runs the tests, but for those that lie elsewhere, as this repository does.
    """
    folder, elsewhere = (tmp_path_factory.mktemp(name) for name in ("venv", "elsewhere"))
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    places = {"base": str(folder), "platbase": str(folder)}
    site = pathlib.Path(sysconfig.get_path("purelib", "venv", places))
    (site / "of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", f"--python={python}"]
    (wheel,) = built.glob("*.whl")
    options = ("--quiet", "--no-deps", "--no-index", "--ignore-installed")
    checked(*pip, "install", *options, str(wheel))
    checked(*pip, "check")  # all that setup.py asks for is there
    return folder, elsewhere


@pytest.fixture
def run(installed):
    """Returns a function that runs the installed `ibot-jax`."""
    folder, elsewhere = installed

    def run(*arguments):
        return subprocess.run(
            [str(folder / "bin/ibot-jax"), *arguments],
            cwd=elsewhere,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            | {"XLA_FLAGS": quick.flags()},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.slow
def test_an_index_would_take_them(built):
    version = ibot_jax.__version__
    names = [f"ibot_jax-{version}-py3-none-any.whl", f"ibot_jax-{version}.tar.gz"]
    files = sorted(built.iterdir())
    assert [file.name for file in files] == names
    printed = checked(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files)
    assert printed.count("PASSED") == 2


@pytest.mark.slow
def test_wheel_and_sdist_have_all_of_the_package_and_nothing_else(built):
    package = {path for path in ROOT.glob("ibot_jax/**/*") if path.suffix not in ("", ".pyc")}
    files = {str(path.relative_to(ROOT)) for path in package}
    configs = {str(path.relative_to(ROOT)) for path in ROOT.glob("configs/**/*.py")}
    wheel, sdist = sorted(built.iterdir())
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == files | {f"ibot_jax/{name}" for name in configs}
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert files | configs | set(PARTS) <= held
    assert not [name for name in held if name.startswith(("tests", "docs"))]


@pytest.mark.slow
def test_the_main_job_runs_and_python_loads_what_it_made(run, installed):
    done = run("main", *cli.TINY, "--workdir=run")
    assert done.returncode == 0, done.stderr
    folder, elsewhere = installed
    rows = [json.loads(line) for line in (elsewhere / "run/metrics.jsonl").open()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 11))
    program = "import ibot_jax as i; print(i.__file__); print(i.load('run')[0].facts['step'])"
    words = [str(folder / "bin/python"), "-I", "-c", program]
    file, step = checked(*words, cwd=elsewhere).split()
    assert pathlib.Path(file).is_relative_to(folder) and step == "10"


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
