"""What all files in launch/ have to be: clean shell, and an image that can be built."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from scripts import ROOT, run_script

LAUNCH = ROOT / "launch"
SHELL = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
# The test extra puts it beside the interpreter, which need not be on the path.
SHELLCHECK = shutil.which(
    "shellcheck",
    path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
)
INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is absent")
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    command = [SHELLCHECK, "--external-sources", path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["tpu_vm.sh", "gke.sh", "slurm.sh"])
def test_help_is_the_comment_that_opens_the_script(name):
    result = run_script(name, "--help")
    assert result.returncode == 0 and f"launch/{name} [--dry-run]" in result.stdout
    assert "set -euo" not in result.stdout


def instructions():
    """Returns the Dockerfile as (instruction, its argument)."""
    text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_dockerfile_has_known_instructions_and_copies_what_there_is():
    found = instructions()
    assert found[0][0] == "FROM" and {name for name, _ in found} <= INSTRUCTIONS
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    for name, argument in found:
        if name == "COPY":
            for source in argument.split()[:-1]:
                assert (ROOT / source).exists() and f"!{source}" in ignored


def test_the_image_is_built_with_extras_that_exist_and_runs_as_no_root():
    text = (LAUNCH / "Dockerfile").read_text()
    setup = (ROOT / "setup.py").read_text()
    extras = re.findall(r"EXTRA=(\w+)", text)
    assert set(extras) == {"tpu", "cuda"}
    assert all(f'"{extra}": [' in setup for extra in [*extras, "gcs"])
    assert '".[${EXTRA},gcs]"' in text
    assert [argument for name, argument in instructions() if name == "USER"] == ["ibot"]
