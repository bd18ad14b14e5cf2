"""Pre-training: what a run reads, starts from and writes, and its loop."""

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ibot_jax.cli import exits
from ibot_jax.cli.unforeseen import told_in
from ibot_jax.config.anchor import anchor_is_kept
from ibot_jax.config.flat import as_json, flatten
from ibot_jax.config.plan import Plan, make_plan
from ibot_jax.config.problems import noted, refuse
from ibot_jax.data.make.sizes import SizesByStep
from ibot_jax.data.pipeline import Batch, train_batches
from ibot_jax.data.sources.identity import Identity, identify
from ibot_jax.data.sources.mixture import (
    MixedSource,
    epoch_length,
    open_known,
    open_training,
    parse,
)
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.same_images import require_same_images
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import TrainingError
from ibot_jax.evaluate.online import Evaluation, Splits, open_splits
from ibot_jax.files.paths import warn_if_among_images
from ibot_jax.kernels.choice import choose, choose_at_hand
from ibot_jax.kernels.devices import device_of
from ibot_jax.methods.method import Network
from ibot_jax.methods.metrics import METRICS
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.methods.step import Metrics
from ibot_jax.models.architectures import geometry_of
from ibot_jax.optim.lora import make_lora
from ibot_jax.parallel import signals
from ibot_jax.parallel.agreement import require_same, same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.processes import is_first, num_processes
from ibot_jax.parallel.rows import rows_of_process
from ibot_jax.parallel.watchdog import Watchdog
from ibot_jax.runs.beginning import after_first, record_beginning
from ibot_jax.runs.check import device_problems, length_problems
from ibot_jax.runs.checkpoint import Checkpoints, parts_of
from ibot_jax.runs.completing import complete
from ibot_jax.runs.frozen import FrozenNetworks, read_frozen
from ibot_jax.runs.gram_teacher import GramTeacher
from ibot_jax.runs.lock import Lock
from ibot_jax.runs.loop import Loop, make_watchdog
from ibot_jax.runs.memory import memory_problems
from ibot_jax.runs.mixture import told_by_source
from ibot_jax.runs.origin import Origin
from ibot_jax.runs.proof import Proven, prove
from ibot_jax.runs.reporting.collapse import balance_signs, collapse_signs, evaluation_signs
from ibot_jax.runs.reporting.forgetting import forgetting_signs
from ibot_jax.runs.reporting.header import header, lora_in_words
from ibot_jax.runs.reporting.reporter import WRITTEN, Reporter
from ibot_jax.runs.starting import replace_weights, start_weights
from ibot_jax.runs.stretches import in_turn
from ibot_jax.runs.training import (
    jit_init,
    jit_train_step,
    make_freezing,
    name_problems,
    state_layout,
    step_arguments,
)
from ibot_jax.runs.workdir import open_workdir, require_shared
from ibot_jax.screen.progress import busy
from ibot_jax.screen.views import views_of_batch
from ibot_jax.weights.history import read_start
from ibot_jax.weights.model import Model


def pretrain(
    config: ConfigDict, workdir: str, *, allow_config_change: bool = False, recipe: str = ""
) -> int:
    """Trains a model, or finishes the training that `workdir` holds.

    All processes of the run call it alike, and it ends alike on all.

    Args:
      config: checked (`check.check_config`), but for keys that the weights of `init_from` tell.
      workdir: where the run writes, and what it resumes.
      allow_config_change: resume under a config that differs from the workdir's.
      recipe: what the header calls it.

    Returns:
      The exit status: 0 when the run is complete, 130, 143 or 129 when SIGINT, SIGTERM or SIGHUP
      ended it early, its state saved.

    Raises:
      UserError: for what the user can mend, before anything compiles.
      TrainingError: if the run cannot go on, whatever the reason; its last good state is saved,
        unless saving is what failed.
    """
    require_same(json.dumps(as_json(config)), "config")
    config, origin = complete(config, workdir)
    flat, recorded = flatten(config), as_json(config)
    watchdog = make_watchdog(config.data.stall_seconds)
    opened = _open(config, workdir, allow_config_change)
    plan, folder = opened.plan, opened.folder
    mesh = make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
    with contextlib.ExitStack() as stack:
        stack.enter_context(told_in(folder))
        with same_end():
            require_shared(folder)
            lock = stack.enter_context(Lock(folder).held())
        checkpoints = Checkpoints(
            folder, keep=config.checkpoint.keep, parts=parts_of(make_lora(config.lora))
        )
        stack.enter_context(checkpoints.none_left_empty())
        resumed = checkpoints.latest_step() is not None
        frozen = read_frozen(flat, folder, mesh, resumed=resumed)
        layout = state_layout(config, plan, mesh, frozen.modules)
        state, started = _first_state(
            config, plan, mesh, checkpoints, frozen.modules, layout, origin, folder
        )
        del origin  # the host's copy
        start_step = int(state.step)
        with same_end():
            reporter = Reporter(
                folder, plan, start_step=start_step, log_to=config.log_to, config=flat
            )
            stack.enter_context(contextlib.closing(reporter))
            batches = _batches(config, opened, mesh, start_step)
            lock.watch("checkpoints", *WRITTEN)
        if not start_step:
            batches = _showing_first(batches, reporter)
        gram = GramTeacher(config.gram, plan, folder, layout, frozen.params.pop("gram", None))
        sizes = SizesByStep(config.seed, config.data, config.high_res, plan)
        proven = _prove(config, plan, mesh, frozen, layout, gram, sizes)
        for name, text in proven.warnings().items():
            reporter.warn_once(name, text)
        evaluation = _evaluation(config, opened.splits, proven, watchdog)
        reporter.say_header(
            header(
                flat,
                plan,
                state.params,
                mesh,
                recipe=recipe,
                data=f"{opened.source.name}: {len(opened.source):,} images",
                evaluation=opened.splits.description if evaluation else 'off, knn.every=""',
                start=started.words,
                kernels=str(proven),
                workdir=folder,
            )
        )
        loop = PretrainLoop(config, plan, mesh, checkpoints, reporter, evaluation, lock, watchdog)
        program = in_turn(
            _programs(config, plan, mesh, frozen, layout, proven),
            start_step,
            lambda: reporter.paused("compile"),
            sizes.number,
        )
        number = itertools.count(start_step)

        def at_once(state: TrainState, *arguments: Any) -> tuple[TrainState, Metrics]:
            anchor = gram(next(number), state)
            return program(state, *arguments, frozen.params | anchor)

        mixed = isinstance(opened.source, MixedSource)
        train_step = after_first(
            told_by_source(at_once, len(opened.source.parts), mesh) if mixed else at_once,
            lambda: record_beginning(
                folder, recorded, opened.data, start_step, reporter, started.record
            ),
        )
        signum = loop.run(state, batches, train_step, config.seed)
        if signum:
            return signals.status_of(signum)
        reporter.say_summary(config.head.prototypes)
    return exits.COMPLETE


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the first state comes from: in words, and as exports tell it; None for nothing."""

    words: str
    record: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Opened:
    """What a run reads and writes, opened before anything lies on a device.

    Attributes:
      source: the training images.
      data: which they are.
      splits: what the teacher is measured on; None for nothing.
      plan: the length of the run.
      folder: its workdir.
    """

    source: Source | TfdsStream
    data: Identity
    splits: Splits | None
    plan: Plan
    folder: epath.Path


def _open(config: ConfigDict, workdir: str, allow_config_change: bool) -> _Opened:
    """Opens images and workdir, the same on all processes; raises all that is wrong at once."""
    flat = flatten(config)
    found = list(device_problems(flat, jax.device_count(), num_processes()))
    with same_end():
        found += memory_problems(flat)
        splits = None
        with noted(found):
            source = open_training(config.data)
            shares = max(jax.device_count() // config.mesh.tensor, 1) * config.grad_accum_steps
            found += length_problems(flat, epoch_length(source), multiple=shares)
            if config.knn.every:
                known = open_known(config.data, source)
                splits = open_splits(known, data=config.data, knn=config.knn, probe=config.probe)
        refuse(found)
        plan = make_plan(config, epoch_length(source))
        refuse(name_problems(config, plan))
        data = identify(source)
        folder = open_workdir(
            workdir, as_json(config), data, allow_config_change=allow_config_change
        )
        if is_first():
            sources = [config.data.source, *(spec for _, spec in parse(config.data.mixture))]
            warn_if_among_images(workdir, "--workdir", sources)
    require_same_images(source)
    if splits:
        require_same(str(len(splits.sources)), "split to test on")
        for source_of_test in splits.sources:
            require_same_images(source_of_test)
    return _Opened(source, data, splits, plan, folder)


def _first_state(
    config: ConfigDict,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    frozen: dict[str, Network],
    layout: TrainState,
    origin: Origin | None,
    folder: epath.Path,
) -> tuple[TrainState, Start]:
    """Returns the state that the loop starts from, and where it comes from."""
    latest = checkpoints.latest_step()
    if latest is not None:
        complete = "; the run is complete" if latest == plan.total_steps else ""
        with busy("reading the checkpoint"):
            state = checkpoints.restore(layout)
        return state, Start(f"resumed at step {latest:,}{complete}{_began(config, folder)}")
    init = functools.partial(
        jit_init(config, plan, mesh, frozen, layout), jax.random.key(config.seed)
    )
    if origin is None:
        with busy("making the first state"):
            return init(), Start(f"random weights, seed {config.seed}")
    weights, table = start_weights(origin, flatten(config), layout)  # before anything compiles
    with busy("making the first state"):
        state = replace_weights(init(), weights)
    if config.lora.rank:
        table |= {"lora": lora_in_words(flatten(config), plan, layout.params)}
    return state, Start(origin.words(table), origin.record(table))


def _began(config: ConfigDict, folder: epath.Path) -> str:
    """Returns in words from which weights a run that goes on once started."""
    start = read_start(folder)
    source = start["source"] if start else config.init_from
    if not source:
        return ""
    other = config.init_from not in ("", source)
    unread = f"; init_from={config.init_from!r} is not read" if other else ""
    return f"; it began with the weights of {source}{unread}"


def _batches(
    config: ConfigDict, opened: _Opened, mesh: jax.sharding.Mesh, start_step: int
) -> Iterator[Batch]:
    """Returns this process's rows of the batches from a step on."""
    return train_batches(
        opened.source,
        opened.plan,
        rows_of_process(mesh, opened.plan.batch_size),
        seed=config.seed,
        data=config.data,
        masks=config.masks,
        geometry=geometry_of(config.model),
        high_res=config.high_res,
        gram=config.gram,
        start_step=start_step,
    )


def _showing_first(batches: Iterator[Batch], reporter: Reporter) -> Iterator[Batch]:
    """Yields the batches, and shows the views of the first."""
    first = next(batches)
    reporter.picture(0, "views", functools.partial(views_of_batch, first))
    yield first
    yield from batches


def _prove(
    config: ConfigDict,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    frozen: FrozenNetworks,
    layout: TrainState,
    gram: GramTeacher,
    sizes: SizesByStep,
) -> Proven:
    """Returns the step with the kernels that compute here what they should, on all views."""
    views = [sizes.views[number] for number in sizes.numbers()]
    others = frozen.params | gram.shapes(plan.total_steps - 1)
    with busy("checking kernels"):
        return prove(
            functools.partial(
                jit_train_step, config, plan, mesh, frozen=frozen.modules, layout=layout
            ),
            [
                (*step_arguments(config, plan, mesh, frozen.modules, data, layout), others)
                for data in views
            ],
            choose(config.model.kernels, device_of(mesh)),
        )


def _programs(
    config: ConfigDict,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    frozen: FrozenNetworks,
    layout: TrainState,
    proven: Proven,
) -> dict[int, jax.stages.Wrapped]:
    """Returns the step of each stretch of the run, by the step where it begins.

    The last one, in which most is trained, is the proven one; each compiles when it is called.
    """
    starts = {0, *make_freezing(config, plan).thaws}
    if anchor_is_kept(config.gram):  # before, there is none: a step takes other arguments
        starts.add(plan.steps("gram.start", config.gram.start))
    starts = sorted(starts)
    programs = {
        start: jit_train_step(
            config, plan, mesh, proven.kernels, frozen.modules, at=start, layout=layout
        )
        for start in starts[:-1]
    }
    return programs | {starts[-1]: proven.step}


def _evaluation(
    config: ConfigDict, splits: Splits | None, proven: Proven, watchdog: Watchdog
) -> Evaluation | None:
    """Returns what measures the teacher, by no kernel that the step was refused."""
    if splits is None:
        return None
    kernels = choose_at_hand(config.model.kernels).without(*proven.refused)
    return Evaluation(
        Model(config, "teacher", kernels=kernels),
        splits,
        data=config.data,
        knn=config.knn,
        probe=config.probe,
        watch=watchdog.waiting,
    )


class PretrainLoop(Loop):
    """Trains student and teacher, evaluates the teacher, and looks for signs of collapse."""

    figure = "knn_top1"  # there is none without labels

    def __init__(
        self,
        config: ConfigDict,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        reporter: Reporter,
        evaluation: Evaluation | None,
        lock: Lock,
        watchdog: Watchdog,
    ):
        """Prepares it; see `Loop`."""
        super().__init__(
            plan,
            mesh,
            checkpoints,
            reporter,
            lock,
            watchdog,
            log_every=plan.steps("log_every", config.log_every),
            save_every=plan.steps("checkpoint.every", config.checkpoint.every),
            evaluate_every=plan.steps("knn.every", config.knn.every) if evaluation else 0,
        )
        self._config = config
        self._evaluation = evaluation
        # Up to here outputs are uniform, and the class loss is at ln K, in every run.
        warmup = plan.steps("optim.warmup", config.optim.warmup)
        self._warm_after = max(warmup, plan.steps_per_epoch)

    def _measure(self, state: TrainState) -> dict[str, float]:
        return self._evaluation({**teacher_params(state), **state.buffers}, self._mesh)

    def _report_measured(self, step: int, values: dict[str, float]) -> None:
        self._reporter.evaluation(step, values)
        if self._config.init_from:
            images = {"": self._evaluation.splits, "old_": self._evaluation.splits.old}
            images = {name: splits.num_images for name, splits in images.items() if splits}
            self._warn(step, forgetting_signs(values, self._reporter.first, images))
        if step > self._warm_after:
            head = self._config.head
            prototypes = {"class": head.prototypes, "patch": head.patch_prototypes}
            images = self._evaluation.splits.num_images
            self._warn(step, evaluation_signs(values, images=images, prototypes=prototypes))

    def _report(self, step: int, values: dict[str, float]) -> None:
        super()._report(step, values)
        self._warn(step, balance_signs(values))
        weight = self._config.loss.class_weight
        if step > self._warm_after and weight and "class_loss" in values:
            unweighted = values | {"class_loss": values["class_loss"] / weight}
            self._warn(step, collapse_signs(unweighted, self._config.head.prototypes))

    def _warn(self, step: int, signs: dict[str, str]) -> None:
        for sign, text in signs.items():
            self._reporter.warn_once(sign, f"at step {step}, {text}")

    def _not_finite(self, step: int, metrics: Metrics) -> TrainingError:
        terms = [
            name.removesuffix("_loss")
            for name, metric in METRICS.items()
            if metric.is_loss and not np.isfinite(metrics.get(name, 0.0))
        ]
        named = f"the {' and the '.join(terms)} loss was" if terms else "the gradients were"
        return TrainingError(
            f"{named} not finite at step {step}; the state before it is saved. What helps: a "
            "longer optim.warmup, a lower optim.lr, a smaller optim.clip, dtype=float32; "
            "--allow_config_change goes on from here with another config"
        )
