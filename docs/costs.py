"""What each part of a recipe costs: time and memory of a step, beside the step without it.

python docs/costs.py --rows=docs/runs/costs.jsonl

Both are measured in turn, by `tools.bench step` on whatever device is there, so that what else a
machine does slows both. What is done already is not done again; the table goes to the screen.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from ablation import PARTS
from experiment import add_rows, read_rows

CONFIG, STEPS, ROUNDS = "configs/cifar10.py", 20, 3
LIKENESSES = {
    "gram anchoring, at twice the size": {"gram.weight": "2", "gram.start": "0 steps"},
    "gram anchoring, at the same size": {
        **{"gram.weight": "2", "gram.start": "0 steps"},
        "gram.scale": "1",
    },
    "visible patches (iBOT++)": {"loss.visible_weight": "1"},
    "patch-kernel alignment": {"loss.kernel_weight": "1"},
}
# Of other schedules a step is no other step.
MEASURED = {
    name: keys for name, keys in PARTS.items() if name not in ("momentum", "warm-ups")
} | LIKENESSES
# An epoch of `tools.bench step` is short.
_SHORT = ("--config.optim.warmup=10%", "--config.loss.teacher_temp_warmup=10%")


def main():
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    rows = pathlib.Path(args.rows)
    done = {(row["part"], row["round"]) for row in read_rows(rows)}
    for number in range(args.rounds):
        for part, keys in MEASURED.items():
            if (part, number) not in done:
                row = {"part": part, "round": number}
                row |= {f"plain_{name}": value for name, value in step({}).items()}
                add_rows(rows, [row | step(keys)])
    print(table(read_rows(rows)))


def step(keys: dict[str, str]) -> dict[str, float]:
    """Returns seconds of a step for each image, and its bytes, of the config with some keys."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "step.json"
        words = [f"--config.{key}={value}" for key, value in keys.items()]
        command = [sys.executable, "-m", "ibot_jax.tools.bench", "step", f"--config={CONFIG}"]
        subprocess.run(
            [*command, *_SHORT, *words, f"--steps={STEPS}", f"--json={report}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found = json.loads(report.read_text())
    memory = found["memory_bytes"]
    return {
        "seconds_an_image": statistics.median(found["step_seconds"]) / found["batch_size"],
        "bytes": memory["arguments"] + memory["temporaries"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns a table in Markdown: the ratios, median of the rounds, lowest and highest."""
    lines = ["| | time an image | memory |", "| --- | --- | --- |"]
    for part in MEASURED:
        of_part = [row for row in rows if row["part"] == part]
        if of_part:
            times = [row["seconds_an_image"] / row["plain_seconds_an_image"] for row in of_part]
            memory = of_part[0]["bytes"] / of_part[0]["plain_bytes"]
            spread = f"{min(times):.2f} to {max(times):.2f}"
            lines.append(
                f"| {part} | x {statistics.median(times):.2f} ({spread}) | x {memory:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
