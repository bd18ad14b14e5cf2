"""Runs the scripts of launch/, with stand-ins for the commands that they would call."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parent.parent


def run_script(
    name: str, *arguments: str, bin_dir: pathlib.Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Runs launch/NAME; commands in `bin_dir` come before those of the system."""
    path = os.pathsep.join(filter(None, [bin_dir and str(bin_dir), os.environ["PATH"]]))
    return subprocess.run(
        [ROOT / "launch" / name, *arguments],
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def stand_in(bin_dir: pathlib.Path, name: str, script: str) -> None:
    """Puts a bash script where a command is looked for; "calls" beside it gets its arguments."""
    bin_dir.mkdir(exist_ok=True)
    path = bin_dir / name
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"{bin_dir}/calls"\n{script}\n')
    path.chmod(0o755)


def calls(bin_dir: pathlib.Path) -> list[str]:
    """Returns the command lines that the stand-ins were called with."""
    path = bin_dir / "calls"
    return path.read_text().splitlines() if path.exists() else []


def assert_misuse(result: subprocess.CompletedProcess, *words: str) -> None:
    """Asserts one clear line on stderr, which holds these words, and exit status 2."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
