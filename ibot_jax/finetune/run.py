"""A run: what it starts from or resumes, and what it writes.

    WORKDIR/config.json        the recipe, and what it is applied to
    WORKDIR/metrics.jsonl      one JSON object a line (see `metrics`)
    WORKDIR/tensorboard/       the same for TensorBoard
    WORKDIR/checkpoints/STEP/  params {"backbone": ..., "classifier": ...}, optimizer, metrics

The latest checkpoints are kept, and the best by top-1.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from ibot_jax.cli.unforeseen import told_in
from ibot_jax.config.flat import as_json, flatten
from ibot_jax.config.plan import Plan, make_plan
from ibot_jax.config.problems import noted, refuse
from ibot_jax.data.labelled import labelled_batches
from ibot_jax.data.sources.identity import identify
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.evaluate.common.opening import Views
from ibot_jax.evaluate.features.extract import extract, require_read
from ibot_jax.evaluate.measures.neighbours import accuracy
from ibot_jax.finetune.check import check_run
from ibot_jax.finetune.config import KEYS
from ibot_jax.finetune.learned import Learned, make_learned
from ibot_jax.finetune.loop import FinetuneLoop
from ibot_jax.finetune.step import (
    FinetuneState,
    make_init,
    make_rank_fn,
    make_train_step,
)
from ibot_jax.kernels.choice import Kernels
from ibot_jax.models.classifier import Classifier, with_kernels
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.agreement import require_same, same_end
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.processes import is_first
from ibot_jax.parallel.rows import rows_of_process
from ibot_jax.runs.beginning import after_first, record_beginning
from ibot_jax.runs.checkpoint import Checkpoints, Parts, with_adapters
from ibot_jax.runs.lock import Lock
from ibot_jax.runs.loop import make_watchdog
from ibot_jax.runs.proof import prove
from ibot_jax.runs.reporting.header import rate_in_words
from ibot_jax.runs.reporting.reporter import WRITTEN, Reporter
from ibot_jax.runs.stretches import in_turn
from ibot_jax.runs.workdir import open_workdir, require_shared
from ibot_jax.weights.finetuned import build_classifier, write_model
from ibot_jax.weights.model import Model


@dataclasses.dataclass(frozen=True)
class Task:
    """What is fine-tuned, and on what.

    Attributes:
      model: the pretrained one.
      params: its parameters, on all devices, where they are freed once a run has started.
      train: the labelled images to train on.
      test: those to test on, of the same classes.
      views: size of the images, and how test images are cut.
    """

    model: Model
    params: Params
    train: Source | TfdsStream
    test: Source | TfdsStream
    views: Views


def finetune(
    config: ConfigDict,
    flags: dict[str, Any],
    task: Task,
    workdir: str,
    mesh: jax.sharding.Mesh,
    *,
    allow_config_change: bool = False,
) -> tuple[epath.Path, int]:
    """Fine-tunes a model, or finishes the fine-tuning that `workdir` holds.

    All processes of the run call it alike, and it ends alike on all.

    Args:
      config: the recipe, checked (`check.problems_at_hand`).
      flags: what else a continued run must have in common, as JSON has it.
      task: what is fine-tuned, and on what.
      workdir: where the run writes, and what it resumes.
      mesh: the devices.
      allow_config_change: resume under a config that differs from the workdir's.

    Returns:
      The absolute path of the workdir, and 0 or the number of the signal that ended the run early,
      its state saved.

    Raises:
      UserError: for what the user can mend, before anything compiles.
      TrainingError: if the run cannot go on, whatever the reason; its last good state is saved,
        unless saving is what failed.
    """
    recorded = as_json(config) | {f"flags.{name}": value for name, value in flags.items()}
    require_same(json.dumps(recorded), "config")
    with same_end():
        plan, found = None, []
        with noted(found):
            shares = math.lcm(mesh.size, 2)  # images are mixed in pairs
            plan = make_plan(config, len(task.train), multiple=shares)
        with noted(found):
            check_run(
                flatten(config),
                plan,
                channels=task.views.channels,
                bands=task.views.decoding.apart,
                num_devices=mesh.size,
            )
        refuse(found)
        learned = make_learned(config, plan)
        data = identify(task.train)
        folder = open_workdir(
            workdir,
            recorded,
            data,
            allow_config_change=allow_config_change,
            flag="--out",
            data_key="--data",
            keys=KEYS,
        )
    model_config = _for_images_of(task.views.size, task.model.config, config)
    described = {
        "classes": task.train.num_classes,
        "names": task.train.class_names,
        "projection": model_config.head.hidden_dim if config.start == "projection" else 0,
    }
    classifier = build_classifier(model_config, described, init_std=config.classifier_std)
    init = _make_init(config, plan, task, classifier, learned)
    with same_end():  # names of parameters that there are not
        jax.eval_shape(init, jax.random.key(0), task.params)
    with contextlib.ExitStack() as stack:
        stack.enter_context(told_in(folder))
        with same_end():
            require_shared(folder)
            lock = stack.enter_context(Lock(folder, flag="--out").held())
        parts = with_adapters(_PARTS, learned.lora)
        checkpoints = Checkpoints(folder, keep=config.checkpoint.keep, parts=parts)
        stack.enter_context(checkpoints.none_left_empty())
        state, start = _first_state(config, plan, task, init, mesh, checkpoints)
        for array in jax.tree.leaves(task.params):
            array.delete()  # a second copy, which would stay there all along
        start_step = int(state.step)
        with same_end():
            reporter = Reporter(folder, plan, start_step=start_step)
            stack.enter_context(contextlib.closing(reporter))
            batches = labelled_batches(
                task.train,
                task.views.size,
                model_config.data.mean,
                task.views.decoding,
                plan,
                rows_of_process(mesh, plan.batch_size),
                seed=config.seed,
                data=config.data,
                start_step=start_step,
            )
            lock.watch("checkpoints", *WRITTEN)
        mean, std = model_config.data.mean, model_config.data.std
        layout = replicated(mesh)

        def make_step(kernels: Kernels) -> jax.stages.Wrapped:
            train_step = make_train_step(
                config.optim,
                config.loss,
                plan,
                with_kernels(classifier, kernels),
                mean,
                std,
                drop_path=config.drop_path,
                erase=config.data.erase,
                learned=learned,
            )
            return jax.jit(train_step, donate_argnums=0, out_shardings=layout)

        pixels = (plan.batch_size, *task.views.size, task.views.channels)
        rows = {
            "images": jax.ShapeDtypeStruct(pixels, jnp.uint8),
            "labels": jax.ShapeDtypeStruct(pixels[:1], jnp.int32),
        }
        arguments = state, rows, jax.eval_shape(lambda: jax.random.key(0))
        proven = prove(make_step, [arguments], classifier.backbone.kernels)
        for name, text in proven.warnings().items():
            reporter.warn_once(name, text)
        reporter.say(
            *_header(config, plan, task, start, str(proven), folder, learned.numbers(state.params))
        )
        rank_fn = make_rank_fn(with_kernels(classifier, proven.kernels), mean, std, learned)

        def test(params: Params) -> tuple[float, float]:
            ranked, labels = extract(rank_fn, params, task.views.batches(task.test), mesh)
            require_read(task.test, len(labels), 1)
            return accuracy(ranked, labels)

        def begun() -> None:
            record_beginning(folder, recorded, data, start_step, reporter)
            if is_first():
                write_model(folder, as_json(model_config), described, task.model.history.get("run"))

        program = in_turn({0: proven.step}, start_step, lambda: reporter.paused("compile"))
        program = after_first(program, begun)
        loop = FinetuneLoop(
            plan,
            mesh,
            checkpoints,
            reporter,
            lock,
            make_watchdog(config.data.stall_seconds),
            test=test,
            log_every=plan.steps("log_every", config.log_every),
            save_every=plan.steps("checkpoint.every", config.checkpoint.every),
            evaluate_every=plan.steps("test_every", config.test_every),
        )
        signum = loop.run(state, batches, program, config.seed)
        if not signum:
            reporter.say(f"time: {reporter.goodput}")
    return folder, signum


def _for_images_of(
    size: tuple[int, int], model_config: ConfigDict, config: ConfigDict
) -> ConfigDict:
    """Returns the model's config for images of another size, with what the recipe says of it."""
    resized = model_config.copy_and_resolve_references()
    resized.data.global_size = size
    resized.model.remat = config.remat
    return resized


def _make_init(
    config: ConfigDict, plan: Plan, task: Task, classifier: Classifier, learned: Learned
) -> Callable[[jax.Array, Params], FinetuneState]:
    trained, shape = task.model.config.data.global_size, (*task.views.size, task.views.channels)
    return make_init(config.optim, plan, classifier, trained, shape, learned)


def _first_state(
    config: ConfigDict,
    plan: Plan,
    task: Task,
    init: Callable[[jax.Array, Params], FinetuneState],
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
) -> tuple[FinetuneState, str]:
    """Returns the state that the loop starts from, and in words where it comes from."""
    layout = replicated(mesh)
    key = jax.random.key(config.seed)
    latest = checkpoints.latest_step()
    if latest is None:
        start = f"{task.model.facts.get('weights', 'the')} weights of {task.model.name}"
        return jax.jit(init, out_shardings=layout)(key, task.params), start
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        jax.eval_shape(init, key, task.params),
    )
    complete = "; the run is complete" if latest == plan.total_steps else ""
    return checkpoints.restore(like), f"resumed at step {latest:,}{complete}"


def _split(state: FinetuneState) -> dict:
    """Takes a state apart into what is saved side by side."""
    optimizer = {"state": state.opt_state, "step": state.step, "finite": state.finite}
    return {"params": state.params, "optimizer": optimizer}


def _join(parts: dict) -> FinetuneState:
    """Is the inverse of `_split`."""
    optimizer = parts["optimizer"]
    return FinetuneState(
        step=optimizer["step"],
        params=parts["params"],
        opt_state=optimizer["state"],
        finite=optimizer["finite"],
    )


_PARTS = Parts(_split, _join, "test_top1")


def _header(
    config: ConfigDict,
    plan: Plan,
    task: Task,
    start: str,
    kernels: str,
    workdir: epath.Path,
    numbers: tuple[int, int],
) -> list[str]:
    """Returns the lines that say what is about to run."""
    height, width = task.views.size
    epochs = plan.total_steps / plan.steps_per_epoch
    under = ", on the projection head's first layer" if config.start == "projection" else ""
    rows = {
        "start": start,
        "kernels": kernels,
        "train": f"{task.train.name}: {len(task.train):,} images of {height} x {width} pixels",
        "test": f"{task.test.name}: {len(task.test):,} images, every {config.test_every}",
        "classifier": f"{task.train.num_classes} classes{under}",
        "learns": "{:,} of {:,} parameters".format(*numbers),
        "length": (
            f"{plan.total_steps:,} steps of {plan.batch_size} images; {epochs:g} epochs of "
            f"{plan.steps_per_epoch:,} steps"
        ),
        "rate": rate_in_words(config.optim, plan.batch_size),
        "writes": str(workdir),
    }
    return [f"  {name:<11}{text}" for name, text in rows.items()]
