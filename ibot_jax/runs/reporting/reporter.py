"""What a run reports: the screen, metrics.jsonl and TensorBoard.

metrics.jsonl holds one JSON object a line. `step` counts the optimiser steps done. A training line
has the metrics of that very step, no averages, so that an interrupted and resumed run writes the
same lines as one that was not, but for its speed and the shares of time (`goodput`), which are of
all steps since the line before. An evaluation's line has what `evaluate.online` measures, or in
fine-tuning `test_top1` and `test_top5`. Numbers that are not finite are null.

A resumed run first removes from both what they say of steps that it is going to repeat.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
from etils import epath
from PIL import Image

from ibot_jax.config.flat import Flat
from ibot_jax.config.plan import Plan
from ibot_jax.files.json_lines import JsonLines
from ibot_jax.files.tensorboard import TensorBoard
from ibot_jax.methods import metrics as of_step
from ibot_jax.parallel.processes import is_first
from ibot_jax.runs.reporting.goodput import WORDS, Goodput
from ibot_jax.runs.reporting.loggers import Loggers
from ibot_jax.screen.progress import ProgressBar, busy, clock, is_shown, write_line
from ibot_jax.weights.run_metrics import METRICS, read_rows

_FOLDER = "tensorboard"
_WORTH_A_WORD = 0.05
WRITTEN = (METRICS, _FOLDER)  # in the workdir, by a `Reporter`


class Reporter:
    """Writes to screen and files; on processes other than the first, to nothing.

    Attributes:
      evaluated: whether the step that it started from has been evaluated; known to the first
        process.
      goodput: what the time goes into.
      first: what was measured before the first step; empty if nothing was, and on others than the
        first process.
    """

    def __init__(
        self,
        workdir: epath.Path,
        plan: Plan,
        *,
        start_step: int,
        log_to: str = "",
        config: Flat | None = None,
    ):
        """Opens the files; lines of metrics.jsonl after `start_step` are removed.

        Args:
          workdir: of the run.
          plan: its length.
          start_step: of the state that it starts from.
          log_to: loggers besides, see `loggers`.
          config: that they are told.
        """
        self._primary = is_first()
        self.evaluated, self.first = False, {}
        self.goodput = Goodput()
        self._plan = plan
        self._workdir = workdir
        self._warned, self._header = set(), []
        self._bar = None
        self._since = None  # (step, time) from which the speed is measured
        if not self._primary:
            return
        self._loggers = Loggers(log_to, workdir, config or {}, self.warn_once)  # which may refuse
        # A run that has saved nothing begins anew, perhaps with another config.
        kept = start_step + 1 if start_step else 0  # steps before this one
        rows = [row for row in read_rows(workdir) if row["step"] < kept]
        self.evaluated = any(row["step"] == start_step and _is_evaluation(row) for row in rows)
        self.first = next((row for row in rows if not row["step"] and _is_evaluation(row)), {})
        self._lines = JsonLines(workdir / METRICS, rows)
        self._tensorboard = TensorBoard(workdir / _FOLDER, purge_from=kept)
        if is_shown():
            self._bar = ProgressBar(plan.total_steps, start_step)

    def say(self, *lines: str) -> None:
        """Prints lines."""
        if self._primary:
            with contextlib.suppress(OSError):  # a full disk: `check` speaks of it where it matters
                write_line("\n".join(lines), sys.stdout)
                sys.stdout.flush()

    def say_header(self, lines: Sequence[str]) -> None:
        """Prints what is about to run; the card of the run has it, too."""
        self._header = list(lines)
        self.say(*lines)

    def picture(self, step: int, name: str, draw: Callable[[], Image.Image]) -> None:
        """Shows TensorBoard and the loggers a picture, which the first process draws."""
        if self._primary:
            picture = draw()
            self._tensorboard.picture(step, name, picture)
            self._loggers.picture(step, name, picture)

    def say_summary(self, prototypes: int) -> None:
        """Prints what metrics.jsonl says of a complete run, and what this start of it took."""
        if self._primary:
            lines = _summary(self._workdir, prototypes)
            self.say(f"time: {self.goodput}", *lines)
            text = "\n".join([*self._header, "", *lines])
            self._loggers.card(f"# {self._workdir.name}\n\n```\n{text}\n```\n")

    def warn_once(self, sign: str, text: str) -> None:
        """Prints a warning to stderr, the first time that this sign is seen."""
        if self._primary and sign not in self._warned:
            write_line(f"warning: {text}", sys.stderr)
        self._warned.add(sign)

    def step_done(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Notes that the device has finished a step; now and then refreshes the bar."""
        if not self._primary:
            return
        if self._since is None:  # the first step compiles: no measure of speed
            self._since = (step, time.monotonic())
        if self._bar is not None:
            self._bar.update(
                step,
                lambda: _in_short(metrics, self._speed(step)) + _waits(self.goodput.shares()),
            )

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports one step's metrics in full."""
        if not self._primary:
            return
        speed = self._speed(step)
        shares = self.goodput.shares()
        self.goodput.note()
        row = dict(metrics) | ({"images_per_second": speed} if speed else {})
        self._write(step, row | {f"share_{what}": share for what, share in shares.items()})
        if self._bar is None:
            images_left = (self._plan.total_steps - step) * self._plan.batch_size
            eta = f"  ETA {clock(images_left / speed)}" if speed else ""
            self.say(
                f"step {step}/{self._plan.total_steps}  epoch {self._epoch(step):.1f}  "
                f"{_state_of(metrics, speed)}{_waits(shares)}{eta}"
            )
        self._since = (step, time.monotonic())

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Reports what `evaluate.online.Evaluation` has measured."""
        if self._primary:
            if not step:
                self.first = dict(values)
            self._write(step, values)
            self.say(f"teacher at step {step} (epoch {self._epoch(step):.1f}): {_found(values)}")

    def test(self, step: int, top1: float, top5: float) -> None:
        """Reports the accuracy of a classifier on the test images."""
        if self._primary:
            self._write(step, {"test_top1": top1, "test_top5": top5})
            self.say(
                f"test at step {step} (epoch {self._epoch(step):.1f}): top-1 {top1:.2f} %, "
                f"top-5 {top5:.2f} %"
            )

    def data_changed(self, step: int, before: int, now: int) -> None:
        """Says that a run goes on with other images: how many there were, and are."""
        if self._primary:
            self._write(step, {"train_images": now, "train_images_before": before})
            names = ", of other names" if before == now else ""
            text = f"from step {step} on, {now:,} images where there were {before:,}{names}"
            self.warn_once("data", text)

    @contextlib.contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Leaves the time within out of the speed.

        Args:
          what: it goes into, one of `goodput.WORDS`.
        """
        start = time.monotonic()
        shown = busy if self._bar is None else self._bar.during
        with self.goodput.spent(what), shown(WORDS[what]):
            yield
        if self._since is not None:
            step, since = self._since
            self._since = (step, since + time.monotonic() - start)

    def flush(self) -> None:
        """Writes what is pending; call it before a checkpoint is saved."""
        if self._primary:
            self._lines.flush()
            self._tensorboard.flush()

    def check(self) -> None:
        """Raises a TrainingError if something could not be written."""
        if self._primary:
            self._lines.check()
            self._tensorboard.check()

    def close(self) -> None:
        """Writes all and closes bar and files."""
        self.goodput.close()
        if not self._primary:
            return
        if self._bar is not None:
            self._bar.close()
        self._tensorboard.close()
        self._lines.close()
        self._loggers.close()

    def _epoch(self, step: int) -> float:
        return step / self._plan.steps_per_epoch

    def _speed(self, step: int) -> float | None:
        """Returns images a second since the last report, None before any step was timed."""
        if self._since is None or step <= self._since[0]:
            return None
        first, since = self._since
        return (step - first) * self._plan.batch_size / (time.monotonic() - since)

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._lines.write({"step": step, "epoch": self._epoch(step), **values})
        self._tensorboard.write(step, row)
        self._loggers.log(step, row)


def _in_short(metrics: Mapping[str, jax.Array], speed: float | None) -> str:
    """Returns what a terminal of 80 columns has room for."""
    text = f"loss {float(metrics['loss']):.3f}"
    if "teacher_entropy" in metrics:
        text += f" entropy {float(metrics['teacher_entropy']):.2f}"
    return f"{text} {_speed_in_words(speed)}" if speed else text


def _state_of(metrics: Mapping[str, float], speed: float | None) -> str:
    text = f"loss {metrics['loss']:.3f}"
    losses = [
        f"{name.removesuffix('_loss')} {metrics[name]:.3f}"
        for name, metric in of_step.METRICS.items()
        if metric.is_loss and name in metrics
    ]
    if losses:
        text += f" ({', '.join(losses)})"
    if "teacher_entropy" in metrics:
        text += f"  teacher entropy {metrics['teacher_entropy']:.2f}"
    return f"{text}  {_speed_in_words(speed)}" if speed else text


def _waits(shares: Mapping[str, float]) -> str:
    """Returns how much of the time the device waits for input, where that is worth a word."""
    share = shares["input"]
    return f"  input {100 * share:.0f} %" if share >= _WORTH_A_WORD else ""


def _speed_in_words(speed: float) -> str:
    return f"{speed:.4g} images/s" if speed < 1000 else f"{speed:.0f} images/s"


def _is_evaluation(row: Mapping[str, float]) -> bool:
    return not row.keys().isdisjoint(("knn_top1", "feature_rank", "test_top1"))


def _found(values: Mapping[str, float]) -> str:
    """Returns the values of an evaluation in words, the accuracies first, where there are some."""
    texts = [
        f"{name} {values[f'{key}_top1']:.1f} % (top-5 {values[f'{key}_top5']:.1f} %)"
        for key, name in (
            *(("knn", "k-NN"), ("probe", "linear probe")),
            *(("old_knn", "k-NN of old images"), ("old_probe", "their linear probe")),
        )
        if f"{key}_top1" in values
    ]
    texts.append(f"rank {values['feature_rank']:.1f}")
    if "prototypes_used" in values:
        texts.append(f"prototypes in use {100 * values['prototypes_used']:.1f} %")
    if "patch_prototypes_used" in values:
        texts[-1] += f" (patches {100 * values['patch_prototypes_used']:.1f} %)"
    if "prototype_nmi" in values:
        texts.append(f"NMI with labels {values['prototype_nmi']:.1f} %")
    return ", ".join(texts)


def _summary(workdir: epath.Path, prototypes: int) -> list[str]:
    """Returns the lines that end a complete run, from its metrics.jsonl."""
    rows = read_rows(workdir)
    lines = []
    trained = [row for row in rows if row.get("teacher_entropy") is not None]
    if trained:
        lines.append(
            "entropy of teacher {teacher_entropy:.2f}, of student {student_entropy:.2f}, of the "
            "teacher's mean {teacher_mean_entropy:.2f}".format(**trained[-1])
            + f"; uniform would be ln {prototypes} = {math.log(prototypes):.2f}"
        )
    for key, name, unit in (
        ("knn_top1", "k-NN", " %"),
        ("probe_top1", "linear probe", " %"),
        ("old_knn_top1", "k-NN of old images", " %"),
        ("feature_rank", "feature rank", ""),
    ):
        values = {row["step"]: row[key] for row in rows if row.get(key) is not None}
        if values:
            first, last = min(values), max(values)
            best = max(values, key=values.get)
            lines.append(
                f"{name} {values[first]:.1f}{unit} at "
                f"{f'step {first}' if first else 'initialisation'}, {values[last]:.1f}{unit} now"
                + (f" (best {values[best]:.1f}{unit} at step {best})" if unit else "")
            )
    return [*lines, f"written to {workdir}"]
