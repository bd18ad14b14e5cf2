"""A whole training from its config: networks, method, optimiser and mesh become init and step.

The one place where they meet: runs, replays, benchmarks and compilations for pods all train what is
put together here.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ibot_jax.config.anchor import anchor_is_kept, gram_size
from ibot_jax.config.plan import Plan, peak_rate
from ibot_jax.config.problems import noted
from ibot_jax.config.section import Section
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.color_table import COLUMNS
from ibot_jax.kernels.colors import apply_colors
from ibot_jax.kernels.linear import matmul_precision
from ibot_jax.methods import step as steps
from ibot_jax.methods.method import Method, Modules, Network
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.methods.views import Batch, Noise, make_views
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.block import drop_path_gains
from ibot_jax.models.build import (
    build_backbone,
    build_head,
    compute_dtype,
    init_params,
    param_dtype,
)
from ibot_jax.models.parameters import Params
from ibot_jax.models.rope import draw_noise
from ibot_jax.models.vit import gathered_by_block
from ibot_jax.optim import freezing
from ibot_jax.optim import optimizer as optimizers
from ibot_jax.optim.ema_teacher import teacher_from_student
from ibot_jax.optim.groups import parameter_groups
from ibot_jax.optim.lora import make_lora
from ibot_jax.optim.rates import given_rates, layer_decay
from ibot_jax.optim.schedules import Schedule, cosine, rate_schedule, warmed_up
from ibot_jax.parallel.layouts import batch_sharding, replicated, state_sharding

Array = jax.Array
Architectures = Mapping[str, Network]  # the architectures of frozen networks, by name


def make_schedules(config: Section, plan: Plan) -> dict[str, Schedule]:
    """Returns the schedules of the Optax chain, by name, as functions of the step.

    `teacher_rate` is 1 - the teacher's momentum, which goes to its end on a cosine.
    """
    optim = config.optim
    last = plan.total_steps - (optim.schedule_end == "included")
    peak = peak_rate(optim.lr, config.batch_size, optim.lr_scaling)
    warmup = plan.steps("optim.warmup", optim.warmup)
    rate = rate_schedule(
        optim.schedule,
        peak,
        optim.min_lr,
        warmup,
        last,
        cooldown=plan.steps("optim.cooldown", optim.cooldown),
        extra=optim.trunc_extra,
    )
    whole = dict(first=0, last=last, extra=optim.trunc_extra)
    return {
        "lr": warmed_up(rate, peak, warmup, end=optim.warmup_end == "included"),
        "weight_decay": cosine(optim.weight_decay, optim.weight_decay_end, **whole),
        "teacher_rate": cosine(
            1 - config.teacher_momentum, 1 - config.teacher_momentum_end, **whole
        ),
    }


def make_optimizer(config: Section, plan: Plan) -> optax.GradientTransformationExtraArgs:
    """Builds the Optax chain of a run."""
    optim, rates, lora = config.optim, [], make_lora(config.lora)
    if optim.layer_decay < 1:
        rates.append(layer_decay(optim.layer_decay, geometry_of(config.model)))
    if optim.rates:
        rates.append(given_rates(optim.rates))
    return optimizers.make_optimizer(
        optim.name,
        **make_schedules(config, plan),
        clip=optim.clip,
        clip_by=optim.clip_by,
        betas=optim.betas,
        eps=optim.eps,
        rates=rates,
        **_frozen(config, plan),
        freeze_last_layer_by=optim.freeze_last_layer_by,
        init_teacher=lambda params: teacher_from_student(
            lora.merged(params), config.head.shared_teacher
        ),
        averaged=lora.merged,
    )


def _frozen(config: Section, plan: Plan) -> dict[str, Any]:
    """Returns the arguments by which `parameter_groups` tells what is frozen."""
    return {
        "freezing": make_freezing(config, plan),
        "freeze_last_layer": plan.steps("optim.freeze_last_layer", config.optim.freeze_last_layer),
        "norm_last_layer": config.head.norm_last_layer,
    }


def make_freezing(config: Section, plan: Plan) -> freezing.Freezing:
    """Returns what is frozen in a run, of `config.optim` and `config.lora`."""
    return freezing.make_freezing(config.optim.freeze, plan, adapters=bool(config.lora.rank))


def make_method(
    config: Section, plan: Plan, kernels: Kernels = XLA, frozen: Architectures | None = None
) -> Method:
    """Builds the method of a run.

    Args:
      config: of the run; `method` names the file.
      plan: its length.
      kernels: what may compute its networks.
      frozen: the architectures of frozen networks.
    """
    backbone = build_backbone(config.model, config.data.global_size, config.dtype, kernels)
    student, teacher = (
        Network(backbone, build_head(config.head, config.dtype, teacher=teacher))
        for teacher in (False, True)
    )
    others = {
        name: dataclasses.replace(network, backbone=network.backbone.clone(kernels=kernels))
        for name, network in (frozen or {}).items()
    }
    module = importlib.import_module(f"ibot_jax.methods.{config.method}")
    return module.build(config, Modules(student, teacher, others), plan)


def make_init(
    config: Section, plan: Plan, frozen: Architectures | None = None
) -> Callable[[Array], TrainState]:
    """Returns the function from a key to a run's first state; the teacher copies the student."""
    method = make_method(config, plan, frozen=frozen)
    init_student = _make_init_student(config, method.modules.student)
    return steps.make_init(init_student, make_optimizer(config, plan), method)


def _make_init_student(config: Section, student: Network) -> Callable[[Array], Params]:
    data, lora = config.data, make_lora(config.lora)

    def init(rng: Array) -> Params:
        params = init_params(student.backbone, student.head, rng, data.global_size, data.channels)
        return lora.init(jax.random.fold_in(rng, 2), params)  # the networks split the key in two

    return init


def name_problems(config: Section, plan: Plan) -> list[str]:
    """Returns what is wrong with names of parameters in `lora`, `optim.freeze`, `optim.rates`."""
    found, optim = [], config.optim
    if not (config.lora.rank or optim.freeze or optim.rates):
        return found
    backbone = build_backbone(config.model, config.data.global_size, config.dtype)
    student = Network(backbone, build_head(config.head, config.dtype, teacher=False))
    with noted(found):
        params = jax.eval_shape(_make_init_student(config, student), jax.random.key(0))
    if found:
        return found
    with noted(found):
        parameter_groups(params, **_frozen(config, plan))
    with noted(found):
        given_rates(optim.rates)(params)
    return found


def make_train_step(
    config: Section,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    kernels: Kernels = XLA,
    frozen: Architectures | None = None,
    at: int | None = None,
) -> steps.Step:
    """Returns the training step of a run, see `methods.step`.

    Args:
      config: of the run.
      plan: its length.
      mesh: the devices.
      kernels: what may compute parts of it.
      frozen: the architectures of frozen networks.
      at: a step of the run; parameters that are frozen in it have no gradient. The last by default.
    """
    at = plan.total_steps - 1 if at is None else at
    schedules = make_schedules(config, plan)
    rate = schedules.pop("teacher_rate")
    data = config.data
    return steps.make_train_step(
        make_method(config, plan, kernels, frozen),
        make_optimizer(config, plan),
        schedules | {"teacher_momentum": lambda step: 1 - rate(step)},
        make_views=functools.partial(
            make_views,
            mean=data.mean,
            std=data.std,
            dtype=compute_dtype(config.dtype),
            apply_colors=functools.partial(
                apply_colors,
                max_blur_radius=data.blur_radius[1],
                kernels=kernels,
                bands=Decoding.of(data).apart,
            ),
            gram_colors=config.gram.colors,
        ),
        draw_noise=_draw_noise(config),
        trained=functools.partial(make_freezing(config, plan).trained, step=at),
        merged=make_lora(config.lora).merged,
        mesh=mesh,
        gathers=_gathers(config),
        parts=config.grad_accum_steps,
        dtype=param_dtype(config.dtype),
        precision=matmul_precision(config.dtype),
    )


def _gathers(config: Section) -> Callable[[str], bool]:
    """Returns which parameters networks gather by themselves, by name."""
    whole = bool(config.lora.rank)  # adapters are merged into the parameters beforehand
    return lambda name: not whole and gathered_by_block(name)


def _draw_noise(config: Section) -> Callable[[Array, Batch], Noise]:
    """Returns what draws stochastic depth for every view, and how rotary positions move."""
    model = config.model
    depth = geometry_of(model).depth
    strengths = {name: getattr(model, f"rope_{name}") for name in ("shift", "jitter", "rescale")}

    def draw_gains(rng: Array, batch: Batch) -> Array | None:
        if not model.drop_path:
            return None
        images, num_global = batch["global_views"].shape[:2]
        num_local = batch["local_views"].shape[1]
        options = model.drop_path, depth
        if model.drop_path_kind == "linear":
            return drop_path_gains(rng, *options, (images, num_global + num_local))
        numbers = [number for number in (num_global, num_local) if number]  # views of one size
        drawn = [
            drop_path_gains(key, *options, (images, number), model.drop_path_kind)
            for key, number in zip(jax.random.split(rng, len(numbers)), numbers, strict=True)
        ]
        return jnp.concatenate(drawn, axis=1)

    def draw(rng: Array, batch: Batch) -> Noise:
        rope = None
        if strengths != {"shift": 0.0, "jitter": 1.0, "rescale": 1.0}:
            keys = jax.random.split(jax.random.fold_in(rng, 1))
            rope = {
                kind: draw_noise(key, (depth,), **strengths)
                for kind, key in zip(("global", "local"), keys, strict=True)
            }
        return Noise(draw_gains(rng, batch), rope)

    return draw


def state_layout(
    config: Section, plan: Plan, mesh: jax.sharding.Mesh, frozen: Architectures | None = None
) -> TrainState:
    """Returns a state of shapes that say where its arrays lie (jax.ShapeDtypeStruct)."""
    state = jax.eval_shape(make_init(config, plan, frozen), jax.random.key(0))
    return jax.tree.map(
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        state,
        state_sharding(state, mesh),
    )


def jit_init(
    config: Section,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    frozen: Architectures | None = None,
    layout: TrainState | None = None,
) -> jax.stages.Wrapped:
    """Returns the jitted `make_init`: each device makes its part of the first state.

    Here as below, who has the `state_layout` hands it on, for it takes a tracing of the networks.
    """
    layout = layout or state_layout(config, plan, mesh, frozen)
    layouts = jax.tree.map(lambda x: x.sharding, layout)
    return jax.jit(make_init(config, plan, frozen), out_shardings=layouts)


def jit_train_step(
    config: Section,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    kernels: Kernels = XLA,
    frozen: Architectures | None = None,
    at: int | None = None,
    layout: TrainState | None = None,
) -> jax.stages.Wrapped:
    """Returns the jitted `make_train_step`, whose state is donated and stays where it lies."""
    layout = layout or state_layout(config, plan, mesh, frozen)
    layouts = jax.tree.map(lambda x: x.sharding, layout)
    return jax.jit(
        make_train_step(config, plan, mesh, kernels, frozen, at),
        donate_argnums=0,
        out_shardings=(layouts, replicated(mesh)),
    )


def own_gram_teacher(config: Section, layout: TrainState) -> dict[str, Any]:
    """Returns {"gram": ...} of a gram teacher that is a copy of the teacher, {} without one.

    Args:
      config: of the run.
      layout: of its state, of which the teacher's part is taken.
    """
    if not anchor_is_kept(config.gram):
        return {}
    return {"gram": {"backbone": teacher_params(layout)["backbone"]}}


def step_arguments(
    config: Section,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    frozen: Architectures | None = None,
    data: Section | None = None,
    layout: TrainState | None = None,
) -> tuple[Any, ...]:
    """Returns shapes and layouts of a step's arguments: state, batch and key.

    Args:
      config: of the run.
      plan: its length.
      mesh: the devices.
      frozen: the architectures of frozen networks.
      data: that of `high_res.all_views` which says the sizes of views; `config.data` by default.
      layout: of the state.
    """
    data = data or config.data
    grid = geometry_of(config.model).grid(data.global_size)
    arrays = {"masks": ((data.global_views, *grid), bool)}
    if anchor_is_kept(config.gram):
        pixels = (data.global_views, *gram_size(config.gram, data), data.channels)
        arrays["gram_views"] = (pixels, jnp.uint8)
    for kind in ("global", "local"):
        views, size = (getattr(data, f"{kind}_{what}") for what in ("views", "size"))
        pixels = (views, *size, data.channels)
        arrays[f"{kind}_views"] = (pixels, jnp.uint8)
        if data.augment == "device":
            arrays[f"{kind}_colors"] = ((views, len(COLUMNS)), jnp.float32)
    batch = {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *shape), dtype, sharding=batch_sharding(mesh)
        )
        for name, (shape, dtype) in arrays.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))
    return layout or state_layout(config, plan, mesh, frozen), batch, key
