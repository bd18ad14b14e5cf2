"""Draws k-NN accuracy over the course of runs from their metrics.jsonl; needs matplotlib.

python docs/plot_knn.py OUT.svg LABEL=METRICS.jsonl ... [--line LABEL=PERCENT ...]
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt


def main():
    """Draws what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("runs", nargs="+", metavar="LABEL=METRICS.jsonl")
    parser.add_argument("--line", action="append", default=[], metavar="LABEL=PERCENT")
    arguments = parser.parse_args()

    plt.rcParams["svg.hashsalt"] = "ibot_jax"  # the same picture, the same file
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for run in arguments.runs:
        label, path = run.split("=", 1)
        rows = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
        points = [(row["epoch"], row["knn_top1"]) for row in rows if "knn_top1" in row]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    for line in arguments.line:
        label, percent = line.split("=", 1)
        axes.axhline(float(percent), color="gray", linestyle="--", linewidth=1, label=label)
    axes.set(xlabel="epoch", ylabel="k-NN top-1, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
