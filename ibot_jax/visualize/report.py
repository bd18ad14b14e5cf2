"""A run on one page: its config, curves and figures, as one HTML file that opens anywhere.

--from is the run's workdir, of a finished run or of one that goes on. Curves are of all that its
metrics.jsonl holds. The figures show --data, or else the data of the run; where neither model nor
data are at hand, the page says so and does without them.
"""

import argparse
import json
import math
import statistics
import sys
from typing import Any

from etils import epath

import ibot_jax
from ibot_jax.cli.flags import add, add_number, add_weights_options
from ibot_jax.config import get_config
from ibot_jax.config.flat import as_json, section
from ibot_jax.data.sources.opening import Subset, splits_for_testing
from ibot_jax.data.sources.splits import AUTO
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of, in_words
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.reporting.goodput import WORDS
from ibot_jax.screen import canvas, page
from ibot_jax.visualize import attention, patterns, pca
from ibot_jax.visualize.charts import Series, line_chart, show
from ibot_jax.visualize.options import add_image_options, open_model
from ibot_jax.visualize.pictures import open_images, read_pictures, spread
from ibot_jax.weights.checkpoints import complete_steps
from ibot_jax.weights.description import recorded_config
from ibot_jax.weights.find import find
from ibot_jax.weights.run_metrics import read_rows

_CELL = 160
# Section, chart, unit, and its curves by metric; whatever else a run reports gets its own chart.
_CHARTS = (
    ("Does it learn", "Accuracy, top 1", "%", {"knn_top1": "k-NN", "probe_top1": "linear probe"}),
    (
        "Does it learn",
        "Accuracy on old images",
        "%",
        {"old_knn_top1": "k-NN", "old_probe_top1": "linear probe"},
    ),
    ("Does it learn", "Accuracy, top 5", "%", {"knn_top5": "k-NN", "probe_top5": "linear probe"}),
    (
        "Does it learn",
        "Entropy",
        "nats",
        {
            "teacher_entropy": "teacher",
            "student_entropy": "student",
            "teacher_mean_entropy": "teacher's mean",
        },
    ),
    ("Does it learn", "Entropy of patches", "nats", {"teacher_patch_entropy": "teacher"}),
    ("Does it learn", "Rank of the features", "", {"feature_rank": "RankMe"}),
    (
        "Does it learn",
        "Prototypes in use",
        "share",
        {"prototypes_used": "class", "patch_prototypes_used": "patch"},
    ),
    (
        "Does it learn",
        "Tokens that Sinkhorn's last turn moved",
        "share",
        {"sinkhorn_class_error": "class", "sinkhorn_patch_error": "patch"},
    ),
    ("Does it learn", "Nearest class token of another image", "", {"nearest_distance": "student"}),
    ("Does it learn", "Prototypes and classes", "%", {"prototype_nmi": "mutual information"}),
    (
        "Training",
        "Loss",
        "nats",
        {"loss": "all", "class_loss": "class", "patch_loss": "patch", "koleo_loss": "KoLeo"},
    ),
    ("Training", "Throughput", "images/s", {"images_per_second": "images/s"}),
    ("Training", "Time", "share", {f"share_{what}": text for what, text in WORDS.items()}),
    ("Training", "Gradient norm", "", {"grad_norm": "all parameters"}),
    ("Schedules", "Learning rate", "", {"lr": "learning rate"}),
    ("Schedules", "Weight decay", "", {"weight_decay": "weight decay"}),
    ("Schedules", "Momentum of the teacher", "", {"teacher_momentum": "momentum"}),
    (
        "Schedules",
        "Temperature of the teacher",
        "",
        {"teacher_temp": "class", "teacher_patch_temp": "patch"},
    ),
)
_COUNTED = ("step", "epoch")
Rows = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the report."""
    add_weights_options(parser)
    add_image_options(parser, number=4, required=False)
    add_number(
        parser, "--pattern-images", 2000, "through which the patterns of prototypes are looked for"
    )
    add(parser, "--out", metavar="FILE", help="an .html file")


def run(args: argparse.Namespace) -> None:
    """Makes the page and writes it."""
    out = canvas.check_out(args.out, (".html", ".htm"))
    source = find(args.source, args.step)
    if source.kind == "fine-tuning":
        raise UserError(f"--from={args.source} is of a fine-tuning; reports are of pre-trainings")
    if source.config is None:
        raise UserError(f"--from={args.source} is no run's workdir, which a report needs")
    workdir, args.source, args.step = source.place, str(source.place), source.step
    config = as_json(recorded_config(source.config, str(workdir)))
    rows = read_rows(workdir)
    sections = chart_sections(rows, config)
    sections["What it sees"] = figures(args, workdir, config)
    sections["Config"] = config_section(config)
    text = page.page(
        f"{workdir.name}: an iBOT run",
        describe(config),
        page.fact_list(facts(rows, config)),
        sections,
        f"ibot_jax {ibot_jax.__version__}; {workdir}",
    )
    with canvas.written(out) as temporary:
        temporary.write_text(text)
    print(f"written to {out} ({len(text) / 1e6:.2f} MB)")


def describe(config: dict[str, Any]) -> str:
    """Returns what was trained on what, in words."""
    size = " x ".join(map(str, config["data.global_size"])) + " pixels"
    if late := config.get("high_res.last"):
        sides = ", ".join(map(str, config["high_res.global_sides"]))
        size += f" (in the last {late} with sides of {sides})"
    return (
        f"A {in_words(section(config, 'model'))}, on {config['data.source']} at {size}; "
        f"{config['batch_size']} images a step, {config['duration']}."
    )


def facts(rows: Rows, config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the numbers to begin with: (name, value, remark) each."""
    found = []
    if rows:
        epoch, step = rows[-1]["epoch"], rows[-1]["step"]
        found.append(("Progress", f"epoch {epoch:.1f}", f"step {step:,}; {config['duration']}"))
    for key, name in (
        *(("knn_top1", "k-NN"), ("probe_top1", "Linear probe")),
        ("old_knn_top1", "k-NN of old images"),
    ):
        if values := _values(rows, key):
            first, best = values[min(values)], max(values.values())
            remark = f"{first:.1f} % at first, best {best:.1f} %"
            found.append((name, f"{values[max(values)]:.1f} %", remark))
    if values := _values(rows, "knn_shared_images"):
        remark = "are training images, too: accuracies are no measure of unknown images"
        found.append(("Beware", f"{values[max(values)]:,.0f} test images", remark))
    if values := _values(rows, "teacher_entropy"):
        uniform = math.log(config["head.prototypes"])
        remark = f"between 0 and ln {config['head.prototypes']} = {uniform:.2f}"
        found.append(("Teacher's entropy", f"{values[max(values)]:.2f}", remark))
    if values := _values(rows, "feature_rank"):
        width = geometry_of(section(config, "model")).width
        found.append(("Rank", f"{values[max(values)]:.1f}", f"of {width}"))
    if values := _values(rows, "images_per_second"):
        speed = statistics.median(values.values())
        found.append(("Throughput", show(speed), "images/s, median"))
    return found


def chart_sections(rows: Rows, config: dict[str, Any]) -> dict[str, str]:
    """Returns the charts of each section, as HTML by heading, in the order of the page."""
    sections = {"Does it learn": [], "Training": [], "Schedules": [], "More metrics": []}
    named = set(_COUNTED).union(*(curves for *_, curves in _CHARTS))
    others = {key for row in rows for key in row} - named
    more = [("More metrics", _words(key), "", {key: _words(key)}) for key in sorted(others)]
    for heading, title, unit, curves in (*_CHARTS, *more):
        series = [_series(rows, key, label) for key, label in curves.items()]
        series = [curve for curve in series if curve.x]
        reference = None
        if "teacher_entropy" in curves:
            number = config["head.prototypes"]
            reference = f"uniform: ln {number}", math.log(number)
        if series:
            sections[heading].append(line_chart(title, unit, series, reference=reference))
    content = {
        heading: f'<div class="charts">{"".join(charts)}</div>' if charts else ""
        for heading, charts in sections.items()
    }
    if not rows:
        content["Does it learn"] = page.note("metrics.jsonl holds nothing yet.")
    return content


def figures(args: argparse.Namespace, workdir: epath.Path, config: dict[str, Any]) -> str:
    """Returns the figures of the latest checkpoint as HTML, or a note why there are none.

    Raises:
      UserError: if what --data names cannot be shown.
    """
    if not complete_steps(workdir / "checkpoints"):
        return page.note("No pictures: there is no complete checkpoint yet.")
    mesh = make_mesh()
    model, params = open_model(args, mesh, head=True)
    own_data = args.images is None
    try:
        if own_data:
            args = argparse.Namespace(**vars(args) | _data_of_run(config))
        source = open_images(args, model.config.data.channels)
        pictures = read_pictures(args, model)
    except UserError as error:
        if not own_data:
            raise
        print(f"no pictures: {error}", file=sys.stderr)
        return page.note(f"No pictures: {error}; --data names others.")
    attend = attention.attention_fn(model, params)
    step = f"Step {model.facts['step']:,}, {model.facts['weights']}."
    shown = [
        page.picture(
            "Attention",
            "Where the class token looks in the last block: the mean of the heads and each head, "
            f"and below the smallest set of patches that holds 60 % of it. {step}",
            f"Attention maps of {len(pictures)} images.",
            attention.draw(pictures, attend, 0.6, _CELL),
        ),
        page.picture(
            "Principal components",
            "The first three components of the patch tokens of all these images as red, green and "
            "blue.",
            f"{len(pictures)} images, and below each its patches in colours.",
            pca.draw(model, params, pictures, 0.0, _CELL),
        ),
    ]
    searched = Subset(source, spread(args.pattern_images, len(source)))
    for kind, what in (("patch", "patches, framed"), ("class", "images")):
        layout = patterns.Layout(kind=kind, prototypes=8, top=9, context=5, cell=240)
        shown.append(
            page.picture(
                f"Patterns of the {kind} tokens",
                f"The prototypes of highest confidence among {len(searched):,} images, each by the "
                f"{what}, that it is surest of; the number is its mean confidence.",
                f"Eight prototypes, each with nine {what}.",
                patterns.draw(model, params, searched, mesh, layout),
            )
        )
    return "".join(shown)


def config_section(config: dict[str, Any]) -> str:
    """Returns the keys that the run has set, and all of them to open, as HTML."""
    defaults = as_json(get_config())
    changed = [
        (key, json.dumps(value), json.dumps(defaults[key]))
        for key, value in sorted(config.items())
        if value != defaults[key]
    ]
    every = [(key, json.dumps(value)) for key, value in sorted(config.items())]
    return page.table(("key", "value", "default"), changed) + page.folded(
        f"All {len(every)} keys", page.table(("key", "value"), every)
    )


def _data_of_run(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the flags that name the run's own data: what k-NN tests on, or else trains on."""
    source, data_dir = config["data.source"], config["data.data_dir"]
    split = config["knn.test_split"] if config["knn.every"] else config["data.split"]
    if split == AUTO:
        split = next(iter(splits_for_testing(source, data_dir=data_dir)), config["data.split"])
    return dict(images=[source], split=split, data_dir=data_dir)


def _values(rows: Rows, key: str) -> dict[int, float]:
    """Returns a metric by step, where it was finite."""
    return {row["step"]: row[key] for row in rows if _is_number(row.get(key))}


def _series(rows: Rows, key: str, label: str) -> Series:
    known = [row for row in rows if _is_number(row.get(key))]
    return Series(label, [row["epoch"] for row in known], [row[key] for row in known])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)  # null stands for what was not finite


def _words(key: str) -> str:
    return key.replace("_", " ").replace("/", ": ").capitalize()
