"""Fine-tunes the whole model as a classifier, and tests it (paper, section 4.1).

    python -m ibot_jax.evaluate finetune --from=PATH --data=SOURCE --test-split=val
        --config=configs/finetune/vits16.py --config.batch_size=256

A linear classifier is put on the class token, and all is trained by the recipe in --config: AdamW
with layer-wise decay of the learning rate, stochastic depth, RandAugment, random erasing, mixup,
CutMix, label smoothing. Recipes come by name, --config=vits16; the default is that for ViT-B/16.
Each key can be set by --config.KEY=VALUE, and --help=config lists them with default, range and
meaning. At another --size, positions are resampled once, and trained at that size. For few labels,
--config.start=projection keeps the first layer of the projection head under the classifier.

Beside the report, --out gets a folder finetune/ with metrics.jsonl, tensorboard/ and checkpoints/,
the latest and the best. The same command goes on where it stopped; Ctrl-C, SIGTERM and SIGHUP save
first, with exit status 130, 143 and 129. --batch-size and --workers are those of the test;
--config.batch_size trains, by --config.data.workers, which are the test's as well by
default.

Data: labelled images, PATH/train/CLASS/* and PATH/test/CLASS/* with the same classes in both.
"""

import argparse
import dataclasses
import os
from typing import Any

from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.cli.flags import add_data_options, add_model_options
from ibot_jax.config.flat import flatten
from ibot_jax.evaluate.common.opening import open_labelled, open_model, open_views, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.finetune import config as default
from ibot_jax.finetune.check import problems_at_hand
from ibot_jax.finetune.run import Task, finetune
from ibot_jax.parallel import signals
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.processes import is_first
from ibot_jax.weights.run_metrics import read_rows

# Flags that move parameters, and so belong to a run as its recipe does.
_RECORDED = (
    "source",
    "weights",
    "step",
    "dtype",
    "data",
    "train_split",
    "max_train_per_class",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this task."""
    add_model_options(parser)
    add_data_options(parser)
    group = parser.add_argument_group("recipe")
    add_config_arguments(
        group, default=default.__file__, keys=default.KEYS, sections=default.SECTIONS
    )
    group.add_argument(
        "--allow_config_change",
        action="store_true",
        help="resume a fine-tuning whose config differs",
    )


def run(args: argparse.Namespace) -> Report:
    """Runs the task.

    Raises:
      UserError: for mistakes, before anything compiles.
      TrainingError: if the run cannot go on.
      SystemExit: with 130, 143 or 129, after Ctrl-C, SIGTERM or SIGHUP and a save.
    """
    recipe = given_config(args, folder="finetune", check=problems_at_hand)
    mesh = make_mesh()
    model, params = open_model(args, mesh, head=recipe.start == "projection")
    views = open_views(args, model, mesh)
    views = dataclasses.replace(
        views,
        view=dataclasses.replace(views.view, interpolation=recipe.data.test_interpolation),
        workers=args.workers or recipe.data.workers,
    )
    train, test, shared = open_labelled(args, model)
    folder, signum = finetune(
        recipe,
        _flags(args, views.size),
        Task(model, params, train, test, views),
        os.path.join(args.out, "finetune"),
        mesh,
        allow_config_change=args.allow_config_change,
    )
    if signum:
        raise SystemExit(signals.status_of(signum))
    if not is_first():
        return Report("finetune", {}, {}, [])  # the first process publishes
    rows = [row for row in read_rows(folder) if "test_top1" in row]
    best, last = max(rows, key=lambda row: row["test_top1"]), rows[-1]
    return Report(
        task="finetune",
        settings=settings(args, model) | {"recipe": flatten(recipe)},
        metrics={
            "top1": last["test_top1"],
            "top5": last["test_top5"],
            "best_top1": best["test_top1"],
            "best_top5": best["test_top5"],
        },
        rows=[_as_row("last", last), _as_row("best", best)],
        shared_images=shared.count,
    )


def _flags(args: argparse.Namespace, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the flags that a continued run must have in common with its start."""
    return {name: getattr(args, name) for name in _RECORDED} | {"size": list(size)}


def _as_row(name: str, row: dict) -> dict:
    """Returns a row of the table from one of metrics.jsonl."""
    return {
        "test": name,
        "step": row["step"],
        "epoch": row["epoch"],
        "top1": row["test_top1"],
        "top5": row["test_top5"],
    }
