"""What small pods may cost by the TPU compiler's figures, recorded in tests/data/pod_budgets.json.

python tests/pod_budgets.py     # records what the compiler says now
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
FILE = ROOT / "tests/data/pod_budgets.json"
CASES = {
    "vits16, data": ("--config=configs/vits16.py", "--topology=v5e:2x2", "--mesh=4x1x1"),
    "vits16, fsdp": ("--config=configs/vits16.py", "--topology=v5p:2x2x1", "--mesh=1x4x1"),
    "vits16, tensor": ("--config=configs/vits16.py", "--topology=v5e:2x2", "--mesh=2x1x2"),
}
# A block costs the same at any depth; what else is left out compiles slowly, the mesh apart.
SHALLOW = (
    "--config.model.depth=1",
    "--config.data.local_views=0",
    "--config.data.augment=host",
    "--batch-size=64",
)


def measure(case: str) -> dict:
    """Returns FLOPs, bytes of memory, cycles, and bytes of collectives, of a chip."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.json"
        subprocess.run(
            [sys.executable, "-m", "ibot_jax.tools.aot", *CASES[case], *SHALLOW, f"--json={path}"],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": ""},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        report = json.loads(path.read_text())
    return {
        "flops": report["compiler_flops"],
        "memory": sum(report["memory"].values()),
        "cycles": report["cycles"],
        "kernels": {
            kernel["name"]: kernel["count"] * kernel["steps"] * kernel["bundles"]
            for kernel in report["kernels"]
        },
        "collectives": {
            f"{moved['kind']} over {moved['axes']}": moved["bytes"]
            for moved in report["collectives"]
            if moved["bytes"] > 2**16  # metrics and the like apart
        },
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps({case: measure(case) for case in CASES}, indent=2) + "\n")
