"""Changes the code in many small ways and tells which changes no test notices.

    python tests/mutation FILE... [--tests TEST...] [--match=TEXT] [--sample=N] [--seed=S]
        [--out=FILE.jsonl]

Each change is made in a copy of this folder, where the tests of the file are run until one fails:
those given, or those that mirror it (`ibot_jax/losses/patches.py`: `tests/losses/test_patches.py`)
and those that `TESTS` adds. Changes that may survive (`survivors.toml`, each with its reason) are
passed over. With --out, what has been tried is kept and not tried again. Exit status 1 where
another change survives.

It takes minutes to hours and is no part of the tests.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).parent
sys.path[0] = str(HERE.parent)
sys.dont_write_bytecode = True
# As tests/conftest.py has it, before JAX is imported; what does not change is compiled once.
COMPILED = tempfile.TemporaryDirectory(prefix="ibot_jax_compiled_")
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": COMPILED.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}

import flax  # noqa: F401
import jax  # noqa: F401
import optax  # noqa: F401
import pytest
from mutation.mutations import mutations

_COPIED = ("ibot_jax", "configs", "tests", "pyproject.toml")
# Tests that see what tests of a file alone do not, from the quickest to the slowest.
TESTS = {
    "ibot_jax/methods": ["tests/methods"],
    "ibot_jax/losses": ["tests/losses", "tests/methods/test_exact.py"],
    "ibot_jax/optim": ["tests/optim"],
    "ibot_jax/parallel": ["tests/parallel", "tests/runs/test_multihost.py"],
    "ibot_jax/runs": ["tests/runs"],
    "ibot_jax/data": ["tests/data"],
}


def tests_of(file: str) -> list[str]:
    """Returns the tests that should notice a change of a file of the package."""
    path = pathlib.PurePath(file)
    folder = pathlib.Path("tests", *path.parts[1:-1])
    mirror = folder / f"test_{path.name}"
    found = [str(mirror)] if mirror.exists() else []
    for prefix, more in TESTS.items():
        if path.is_relative_to(prefix):
            found += [test for test in more if pathlib.Path(test).exists() and test not in found]
    return found or [str(folder)]


def survives(folder: pathlib.Path, tests: list[str], limit_s: float) -> bool:
    """Runs tests in a folder; returns whether all pass.

    In a copy of this process, which has imported already what is slow to import.
    """
    child = os.fork()
    if not child:
        os.setsid()  # so that it can be ended with all that it starts
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            os.chdir(folder)
            os.environ["PYTHONPATH"] = str(folder)
            sys.path[:1] = [str(folder), str(folder / "tests")]
            os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(1)
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tests", nargs="+", help="in place of those that belong to the files")
    parser.add_argument("--match", default="", help="only changes whose name holds this text")
    parser.add_argument("--sample", type=int, default=0, help="changes a file, drawn; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="keeps what has been tried")
    args = parser.parse_args()
    allowed = tomllib.loads((HERE / "survivors.toml").read_text())
    tried = {}
    if args.out and args.out.exists():
        rows = map(json.loads, args.out.read_text().splitlines())
        tried = {(row["file"], row["name"]): row["survived"] for row in rows}
    killed = total = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for part in map(pathlib.Path, _COPIED):
            if part.is_dir():
                shutil.copytree(part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif part.exists():
                shutil.copy(part, folder / part)
        for file in args.files:
            source = pathlib.Path(file).read_text()
            tests = args.tests or tests_of(file)
            began = time.monotonic()
            if not survives(folder, tests, 3600):
                print(f"{file}: {' '.join(tests)} fail without any change", file=sys.stderr)
                return 2
            limit_s = 20 + 3 * (time.monotonic() - began)  # a change may make loops endless
            found = [m for m in mutations(source) if m.name not in allowed.get(file, {})]
            found = [mutation for mutation in found if args.match in mutation.name]
            if args.sample:
                random.Random(args.seed).shuffle(found)
                found = found[: args.sample]
            for mutation in found:
                key = (file, mutation.name)
                if key not in tried:
                    (folder / file).write_text(mutation.source)
                    tried[key] = survives(folder, tests, limit_s)
                    if args.out:
                        row = {"file": file, "name": mutation.name, "survived": tried[key]}
                        with args.out.open("a") as out:
                            out.write(json.dumps(row) + "\n")
                total += 1
                killed += not tried[key]
                if tried[key]:
                    print(f"survived  {file} {mutation.name}  (line {mutation.line})", flush=True)
            (folder / file).write_text(source)
    print(f"{killed} of {total} killed")
    return int(killed < total)


if __name__ == "__main__":
    sys.exit(main())
