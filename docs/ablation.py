"""From the original's recipe to DINOv2's, step by step, and without each of the steps.

python docs/ablation.py CIFAR10 PHOTOS --workdir=runs/ablation --rows=docs/runs/ablation.jsonl
python docs/ablation.py --rows=docs/runs/ablation.jsonl --plot=docs/images/ablation.svg

CIFAR10 holds train/CLASS/*, PHOTOS any images. All runs see as many images: those for training,
but for the last 500 of each class by name, on which they are measured; the test images are not
touched. What is done already is not done again: an interrupted command goes on, and adds rows.
Several at a time are told apart by --seeds and --workdir.
"""

import argparse
import collections
import json
import pathlib
import statistics
from typing import Any

from experiment import add_rows, mean_and_range, pyplot, read_rows, train

from ibot_jax.evaluate import __main__ as evaluate

EPOCHS, SEEDS, HELD_OUT = 1, (0, 1, 2), 500
ORIGINAL = "the original's recipe"

# In the order of DINOv2's table of its steps from iBOT, and as far where it names numbers: the
# momentum's distance from 1 and the batch grow by a half. The last two are not in that table.
PARTS = {
    "LayerScale, drop path": {"model.layer_scale": "0.1", "model.drop_path": "0.1"},
    "more prototypes": {"head.prototypes": "2048", "head.patch_prototypes": "2048"},
    "KoLeo": {"method": "dinov2", "loss.koleo_weight": "0.1"},
    "SwiGLU": {"model.ffn": "swiglu"},
    "momentum": {"teacher_momentum": "0.985"},
    "warm-ups": {"loss.teacher_temp_start": "0.02", "loss.teacher_temp_warmup": "50%"},
    "larger batch": {"batch_size": "96"},
    "Sinkhorn": {"method": "dinov2", "loss.targets": "sinkhorn"},
    "heads apart": {
        "head.separate": "True",
        "head.shared": "False",
        "head.shared_teacher": "False",
    },
    "masks dealt out": {"masks.kind": "dinov2"},
    "rotary positions, registers": {"model.positions": "rotary", "model.registers": "2"},
}
COLUMNS = {
    "knn_top1": "k-NN",
    "probe_top1": "linear probe",
    "feature_rank": "rank",
    "photos_near": "patches found again: photographs",
    "images_near": "CIFAR-10",
}


def recipes() -> dict[str, dict[str, str]]:
    """Returns what each recipe changes of configs/cifar10.py, by its name."""
    found, whole = {ORIGINAL: {}}, {}
    for part, keys in PARTS.items():
        whole = whole | keys
        found[f"+ {part}"] = whole
    for part in list(PARTS)[:-1]:  # without the last one is there already
        others = (keys for name, keys in PARTS.items() if name != part)
        found[f"all but {part}"] = {key: value for keys in others for key, value in keys.items()}
    return found


def main():
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="?", help="CIFAR-10 as class folders")
    parser.add_argument("photos", nargs="?", help="a folder of photographs")
    parser.add_argument("--workdir", default="runs/ablation")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--plot", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    args = parser.parse_args()
    rows = pathlib.Path(args.rows)
    if args.images and args.photos:
        measure(args, rows)
    print(table(read_rows(rows)))
    if args.plot:
        plot(read_rows(rows), args.plot)


def measure(args: argparse.Namespace, rows: pathlib.Path) -> None:
    """Trains by each recipe with each seed, and adds a row of what became of it."""
    workdir = pathlib.Path(args.workdir).absolute()
    images = hold_out(pathlib.Path(args.images).absolute(), workdir / "images")
    done = {(row["recipe"], row["seed"]) for row in read_rows(rows)}
    for seed in args.seeds:
        for number, (recipe, keys) in enumerate(recipes().items()):
            if (recipe, seed) in done:
                continue
            run = workdir / f"{number}_{seed}"
            train(
                "--config=configs/cifar10.py",
                f"--config.data.source=folder:{images}",
                *("--config.optim.warmup=20%", "--config.loss.teacher_temp_warmup=10%"),
                *(f"--config.{key}={value}" for key, value in keys.items()),
                f"--config.duration={EPOCHS} epochs",
                f"--config.seed={seed}",
                f"--config.knn.every={EPOCHS} epochs",
                *("--config.knn.max_train_per_class=1000", "--config.knn.max_test_per_class=0"),
                f"--workdir={run}",
            )
            row: dict[str, Any] = {"recipe": recipe, "seed": seed}
            measured = [x for x in read_rows(run / "metrics.jsonl") if "knn_top1" in x][-1]
            row |= {name: round(measured[name], 2) for name in list(COLUMNS)[:3]}
            for name, source, side in (
                ("photos", args.photos, 128),
                ("images", images / "test", 32),
            ):
                row[f"{name}_near"] = round(correspondence(run, f"folder:{source}", side), 2)
            add_rows(rows, [row])


def correspondence(run: pathlib.Path, source: str, side: int) -> float:
    """Returns the share of patches that are found again in another view, in percent."""
    out = run / "correspondence"
    named = f"--from={run}", f"--data={source}", f"--size={side}", f"--out={out}"
    if status := evaluate.main(["correspondence", *named]):
        raise SystemExit(status)
    return json.loads((out / "correspondence.json").read_text())["metrics"]["near"]


def hold_out(images: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Links the training images into two splits, the last `HELD_OUT` of each class to test on."""
    for folder in sorted((images / "train").iterdir()):
        files = sorted(folder.iterdir())
        for split, part in (("train", files[:-HELD_OUT]), ("test", files[-HELD_OUT:])):
            links = out / split / folder.name
            links.mkdir(parents=True, exist_ok=True)
            for file in part:
                if not (links / file.name).exists():
                    (links / file.name).symlink_to(file)
    return out


def by_recipe(rows: list[dict[str, Any]], column: str) -> dict[str, list[float]]:
    """Returns the values of all seeds, by recipe."""
    found = collections.defaultdict(list)
    for row in rows:
        found[row["recipe"]].append(row[column])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Returns a table in Markdown: mean of the seeds, lowest and highest."""
    columns = {title: by_recipe(rows, column) for column, title in COLUMNS.items()}
    lines = [f"| | seeds | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for recipe in recipes():
        values = [found[recipe] for found in columns.values()]
        if values[0]:
            cells = [recipe, str(len(values[0])), *map(mean_and_range, values)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], out: str) -> None:
    """Draws k-NN of each recipe, a dot a seed and a line at their mean."""
    found = by_recipe(rows, "knn_top1")
    names = [name for name in recipes() if found[name]]
    figure, axes = pyplot().subplots(figsize=(7, 0.28 * len(names) + 0.8), layout="constrained")
    for place, name in enumerate(names):
        color = "C1" if name.startswith("all but") else "C0"
        axes.plot(found[name], [place] * len(found[name]), "o", color=color, alpha=0.6)
        axes.plot(statistics.mean(found[name]), place, "|", color=color, markersize=16)
    axes.set(xlabel="k-NN top-1, %", yticks=range(len(names)), yticklabels=names)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
