"""Many tasks in one go, and a page: published figures beside those of one model, or of several.

What it measures: all of --tasks whose data lies below --data-root; what is not there is named with
the page where it is to be had, and left out. Each task is run as by its own command, by its
published protocol; --quick takes few images and steps for a first look, which says nothing beside
published figures. What has been measured is kept in --out: an interrupted suite goes on.

Data: ROOT/imagenet/{train,val}/CLASS/*, ROOT/VOCdevkit/VOC2012, ROOT/roxford5k, ...; all folders
are in docs/evaluations.md.

    python -m ibot_jax.evaluate suite --from=runs/mine --data-root=ROOT --out=DIR
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence

import jax
from etils import epath

from ibot_jax.cli import exits, flags, subcommands, unforeseen
from ibot_jax.errors import TrainingError, UserError
from ibot_jax.evaluate.benchmarks.image_files import require_folder
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.common.running import evaluate
from ibot_jax.evaluate.suite import catalogue
from ibot_jax.evaluate.suite.catalogue import EVALUATIONS, ROOT, Evaluation
from ibot_jax.evaluate.suite.record import Record
from ibot_jax.evaluate.suite.sheet import Sheet
from ibot_jax.evaluate.suite.subjects import Subject, open_subjects
from ibot_jax.files.atomic import write_bytes
from ibot_jax.files.paths import absolute_path, require_writable
from ibot_jax.parallel.agreement import require_same, same_end
from ibot_jax.parallel.processes import is_first

# Groups of evaluations: those with a published figure of one of these models.
_GROUPS = {
    "published/ibot": (catalogue.S, catalogue.B, catalogue.L),
    "published/dinov2": (catalogue.L22K, catalogue.DINOV2),
    "published/dinov3": (catalogue.DINOV3,),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the suite."""
    group = parser.add_argument_group("models")
    flags.add(
        group,
        "--from",
        action="append",
        help="a run's workdir, one of its checkpoints, or an export; given again, further ones",
    )
    flags.add(group, "--weights", choices=("teacher", "student", "random"), help="of runs")
    flags.add(group, "--step", "--dtype")
    group.add_argument(
        "--beside",
        choices=catalogue.MODELS,
        metavar="NAME",
        help=f"whose published figures stand beside: {'; '.join(catalogue.MODELS)} (default: "
        "iBOT's of the same size, if there is one)",
    )
    group = parser.add_argument_group("tasks")
    group.add_argument("--data-root", required=True, metavar="ROOT", help="see above")
    names = *_GROUPS, *(evaluation.name for evaluation in EVALUATIONS)
    group.add_argument(
        "--tasks",
        default=("all",),
        type=flags.sequence(flags.one_of(("all", *names))),
        metavar="NAME,...",
        help=f"all, or some of {', '.join(names)} (default: all)",
    )
    group.add_argument("--quick", action="store_true", help="a first look: few images and steps")
    group = parser.add_argument_group("output and processes")
    flags.add(group, "--out", metavar="DIR", help="for reports, suite.html, suite.md, suite.json")
    flags.add(group, "--cache", "--coordinator_address", "--num_processes", "--process_id")


def run(args: argparse.Namespace, tasks: Mapping[str, str]) -> int:
    """Measures what is not measured yet, and writes the page.

    Args:
      args: the flags.
      tasks: the module of each task, by its name.

    Returns:
      `exits.FAILED` if an evaluation failed, which the page tells; else `exits.COMPLETE`.

    Raises:
      UserError: for what the user can mend; if no evaluation has its data.
    """
    root, out = absolute_path(args.data_root), absolute_path(args.out)
    with same_end():
        present, absent = look(require_folder(root), choose(args.tasks))
        require_writable(out, "--out")
        record = Record.read(out / "suite.json")
    require_same(json.dumps([each.name for each in present]), f"--data-root={root}")
    require_same(json.dumps(record.rows), str(record.path))
    subjects, found, failed = open_subjects(args), {}, {}
    for evaluation, place in absent:
        page = evaluation.needs[place]
        _say(f"left out: {evaluation.name}, for {root / place} is absent; it is from {page}")
    for number, evaluation in enumerate(present, 1):
        for subject in subjects:
            words = _flags(evaluation, root, args)
            about = subject.sha256, evaluation.task, words
            metrics = record.metrics(*about)
            if metrics is None:
                _say(f"{number} of {len(present)}: {evaluation.name}, {subject.label}")
                started = time.monotonic()
                try:
                    report = _measure(subject, evaluation, words, args, tasks)
                except (UserError, TrainingError) as error:
                    _say(f"error: {evaluation.name}, {subject.label}: {error}")
                    failed[subject.label, evaluation.name] = str(error)
                    continue
                metrics, seconds = report.all_metrics, round(time.monotonic() - started, 1)
                record.add(*about, metrics=metrics, label=subject.label, seconds=seconds)
            found[subject.label, evaluation.name] = metrics
    sheet = Sheet(
        [subject.label for subject in subjects],
        _beside(subjects, args),
        present,
        absent,
        found,
        failed,
        args.quick,
    )
    if is_first():
        write_bytes(out / "suite.md", sheet.markdown().encode())
        write_bytes(out / "suite.html", sheet.page().encode())
        print(sheet.text())
        print(f"written to {out / 'suite.html'}, suite.md and {record.path.name}")
    return exits.FAILED if failed else exits.COMPLETE


def choose(names: Sequence[str]) -> list[Evaluation]:
    """Returns the evaluations that --tasks names, in the order of the catalogue."""
    models = {model for name in names for model in _GROUPS.get(name, ())}

    def is_chosen(evaluation: Evaluation) -> bool:
        published = {model for figure in evaluation.figures for model in figure.published}
        return "all" in names or evaluation.name in names or bool(models & published)

    return [evaluation for evaluation in EVALUATIONS if is_chosen(evaluation)]


def look(
    root: epath.Path, evaluations: Sequence[Evaluation]
) -> tuple[list[Evaluation], list[tuple[Evaluation, str]]]:
    """Returns the evaluations whose data is there, and the others with the first place missed.

    Raises:
      UserError: if there is no data at all.
    """
    present, absent = [], []
    for evaluation in evaluations:
        missed = [place for place in evaluation.needs if not (root / place).exists()]
        if missed:
            absent.append((evaluation, missed[0]))
        else:
            present.append(evaluation)
    if not present:
        wanted = "; ".join(
            f"{root / place}, from {each.needs[place]}" for each, place in absent[:3]
        )
        raise UserError(f"--data-root={root} holds nothing to measure on, such as {wanted}")
    return present, absent


def _flags(evaluation: Evaluation, root: epath.Path, args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the flags that determine what an evaluation finds of a model."""
    words = *evaluation.flags, *(evaluation.quick if args.quick else ()), f"--dtype={args.dtype}"
    return tuple(word.replace(ROOT, str(root)) for word in words)


def _measure(
    subject: Subject,
    evaluation: Evaluation,
    words: Sequence[str],
    args: argparse.Namespace,
    tasks: Mapping[str, str],
) -> Report:
    """Runs a task as its own command does.

    Raises:
      UserError: for what the user can mend.
      TrainingError: for whatever else ends it.
    """
    folder = evaluation.trained_by or evaluation.name  # where heads that are trained lie
    out = absolute_path(args.out) / subject.sha256[:8] / folder
    words = evaluation.task, *words, *subject.flags, f"--out={out}"
    with unforeseen.told_in():
        try:
            parsed = subcommands.parse(words, "ibot_jax.evaluate", tasks, noun="task", doc="")
            assert parsed, words  # they ask for no help
            module, parser, own = parsed
            if "cache" in own:
                own.cache = args.cache
            return evaluate(module, parser, own)
        finally:
            jax.clear_caches()  # what one task compiled no other needs


def _beside(subjects: Sequence[Subject], args: argparse.Namespace) -> list[str | None]:
    """Returns the published model beside each subject; nothing stands beside a first look."""
    return [None if args.quick else args.beside or subject.alike for subject in subjects]


def _say(text: str) -> None:
    if is_first():
        print(text, file=sys.stderr, flush=True)
