"""One table of exit statuses, in every program's help and in the docs."""

import pathlib
import re
import subprocess
import sys

import pytest

from ibot_jax.__main__ import COMMANDS
from ibot_jax.cli import exits

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_statuses_are_those_of_shells():
    assert list(exits.MEANINGS) == [0, 1, 2, 130, 143, 129]  # 128 + SIGINT 2, SIGTERM 15, SIGHUP 1


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("aot", "replay")])
def test_every_program_tells_them(command):
    words = [sys.executable, "-m", COMMANDS[command], "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert exits.listing() in done.stdout


@pytest.mark.parametrize("path", ["docs/design.md", "docs/pods.md"])
def test_the_docs_know_no_other(path):
    rows = re.findall(r"^\| (\d[\d, ]*) \|", (ROOT / path).read_text(), re.MULTILINE)
    told = {int(number) for row in rows for number in row.split(",")}
    assert {0, 1, 130, 143} <= told <= exits.MEANINGS.keys()
