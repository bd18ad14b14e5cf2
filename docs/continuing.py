"""Continues a pre-training on other classes in several ways, and measures what is kept and gained.

python docs/continuing.py CIFAR10 --workdir=runs/continuing --rows=docs/runs/continuing.jsonl
python docs/continuing.py --rows=docs/runs/continuing.jsonl --plot=docs/images/continuing.svg

CIFAR10 holds train/CLASS/* and test/CLASS/*. A model is trained on the first five classes by name
(old); each way goes on from it, or begins anew, on the other five (new). What is done already is
not done again: an interrupted command goes on. The table goes to the screen.
"""

import argparse
import collections
import pathlib
import statistics

from experiment import add_rows, mean_and_range, pyplot, read_rows, train

STEPS, EVERY, SEEDS = 200, 100, 3
_KEYS = ("knn_top1", "probe_top1", "old_knn_top1", "old_probe_top1")

# The recipe of configs/cifar10.py for few steps.
_RECIPE = (
    "--config=configs/cifar10.py",
    "--config.optim.warmup=30%",
    "--config.optim.freeze_last_layer=0 steps",
    "--config.loss.teacher_temp_warmup=30%",
)
# What configs/continue.py does not take from the weights: the images, and heads of this size.
_CONTINUE = (
    "--config=configs/continue.py",
    "--config.dtype=float32",
    *(f"--config.head.{key}=512" for key in ("prototypes", "patch_prototypes")),
    *("--config.head.hidden_dim=256", "--config.head.bottleneck_dim=64"),
    *("--config.data.global_scale=0.35,1.0", "--config.data.local_scale=0.1,0.4"),
    *("--config.data.blur=0,0,0", "--config.data.solarize=0,0,0"),
    *("--config.data.augment=host", "--config.data.resize=pillow"),
    "--config.knn.resize=32",  # all are evaluated alike
)
_FROM = ("--config.init_from={old}", "--config.init_head=fresh")
_LOWER_HALF = "backbone: 100%; backbone/blocks_[23]: 0 steps; backbone/norm: 0 steps"
_TEN_TIMES = ("--config.optim.lr=0.03",)
WAYS = {
    "from scratch": _RECIPE,
    "continued": (*_RECIPE, *_FROM),
    "continued, lower half frozen": (*_RECIPE, *_FROM, f"--config.optim.freeze={_LOWER_HALF}"),
    "continued, heads first": (*_RECIPE, *_FROM, "--config.optim.freeze=backbone: 20%"),
    "continued, LoRA of rank 8": (*_RECIPE, *_FROM, "--config.lora.rank=8"),
    "configs/continue.py": (*_CONTINUE, *_FROM),
    "continued, rate x 10": (*_RECIPE, *_FROM, *_TEN_TIMES),
    "rate x 10, heads first": (
        *_RECIPE,
        *_FROM,
        *_TEN_TIMES,
        "--config.optim.freeze=backbone: 20%",
    ),
}


def main():
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="?", help="CIFAR-10 as class folders")
    parser.add_argument("--workdir", default="runs/continuing")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--plot", default="")
    parser.add_argument("--ways", default=";".join(WAYS), help="separated by semicolons")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    rows = pathlib.Path(args.rows)
    if args.images:
        measure(args, rows)
    found = read_rows(rows)
    print(table(found))
    if args.plot:
        plot(found, args.plot)


def measure(args: argparse.Namespace, rows: pathlib.Path) -> None:
    """Trains, and adds the evaluations of each run to the rows, once it is complete."""
    workdir = pathlib.Path(args.workdir).absolute()
    old, new = halves(pathlib.Path(args.images).absolute(), workdir / "images")
    pretrained = workdir / "old"
    train(
        "--config=configs/cifar10.py",
        f"--config.data.source=folder:{old}",
        "--config.duration=6 epochs",
        *("--config.knn.every=2 epochs", "--config.knn.max_test_per_class=0"),
        f"--workdir={pretrained}",
    )
    done = {(row["way"], row["seed"]) for row in read_rows(rows)}
    for seed in range(args.seeds):
        for number, (way, settings) in enumerate(WAYS.items()):
            if (way, seed) in done or way not in args.ways.split(";"):
                continue
            run = workdir / f"{number}_{seed}"
            train(
                *(setting.format(old=pretrained) for setting in settings),
                f"--config.data.source=folder:{new}",
                f"--config.knn.old_source=folder:{old}",
                f"--config.duration={STEPS} steps",
                f"--config.seed={seed}",
                *("--config.batch_size=64", "--config.data.local_views=2"),
                f"--config.knn.every={EVERY} steps",
                *("--config.knn.max_train_per_class=200", "--config.knn.max_test_per_class=200"),
                f"--config.checkpoint.every={STEPS} steps",
                f"--config.log_every={EVERY} steps",
                f"--workdir={run}",
            )
            measured = [
                {"way": way, "seed": seed, "step": line["step"]}
                | {key: round(line[key], 2) for key in _KEYS}
                for line in read_rows(run / "metrics.jsonl")
                if "knn_top1" in line and line["step"] % EVERY == 0
            ]
            add_rows(rows, measured)


def halves(images: pathlib.Path, out: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Links the classes into two folders, the first half by name and the other one."""
    names = sorted(path.name for path in (images / "train").iterdir())
    half = len(names) // 2
    for folder, classes in (("old", names[:half]), ("new", names[half:])):
        for split in ("train", "test"):
            (out / folder / split).mkdir(parents=True, exist_ok=True)
            for name in classes:
                link = out / folder / split / name
                if not link.exists():
                    link.symlink_to(images / split / name)
    return out / "old", out / "new"


def by_way(rows: list[dict], key: str, step: int) -> dict[str, list[float]]:
    """Returns the values of all seeds at a step, by way."""
    found = collections.defaultdict(list)
    for row in rows:
        if row["step"] == step:
            found[row["way"]].append(row[key])
    return found


def table(rows: list[dict]) -> str:
    """Returns a table in Markdown: mean of the seeds at the last step, lowest and highest."""
    names = ("seeds", "new: k-NN", "linear probe", "old: k-NN", "linear probe")
    lines = [f"| | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    steps = sorted({row["step"] for row in rows})
    measured = [way for way in WAYS if by_way(rows, _KEYS[0], steps[-1])[way]]
    for way, step in (
        ("from scratch", 0),
        ("continued", 0),
        *((way, steps[-1]) for way in measured),
    ):
        values = [by_way(rows, key, step)[way] for key in _KEYS]
        name = way if step else f"before the first step, {way}"
        lines.append(f"| {' | '.join([name, str(len(values[0])), *map(mean_and_range, values)])} |")
    return "\n".join(lines)


def plot(rows: list[dict], out: str) -> None:
    """Draws k-NN of new and old images by step, means of the seeds within their range."""
    figure, both = pyplot().subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharex=True)
    steps = sorted({row["step"] for row in rows})
    panels = (("knn_top1", "new images"), ("old_knn_top1", "old images"))
    for axes, (key, title) in zip(both, panels, strict=True):
        for way in (way for way in WAYS if by_way(rows, key, 0)[way]):
            values = [by_way(rows, key, step)[way] for step in steps]
            (line,) = axes.plot(steps, list(map(statistics.mean, values)), marker="o", ms=3)
            line.set_label(way)
            lowest, highest = list(map(min, values)), list(map(max, values))
            axes.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.15, lw=0)
        axes.set(xlabel="step", ylabel="k-NN top-1, %", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
