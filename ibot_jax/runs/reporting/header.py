"""The lines that say what is about to run."""

import itertools
from typing import Any

import jax
from etils import epath

import ibot_jax
from ibot_jax.config.anchor import gram_size
from ibot_jax.config.flat import Flat, section
from ibot_jax.config.high_res import late_views
from ibot_jax.config.plan import Plan, peak_rate
from ibot_jax.config.section import Section
from ibot_jax.models.architectures import in_words
from ibot_jax.optim.freezing import Freezing, make_freezing
from ibot_jax.optim.lora import PART, base_of, make_lora
from ibot_jax.parallel.processes import num_processes


def suggested_momentum(batch_size: int, total_steps: int) -> float:
    """Returns the momentum of the teacher that goes with a batch, by a rule of thumb.

    1 - momentum is 0.004 (batch / 1024)^1.5, which gives the published 0.996 for 1,024 images, and
    the 0.9995 that the original's authors suggest for 256. In a short run the teacher must follow
    sooner: 1 - momentum is at least 10 / steps, so that it averages a tenth of the run at most; but
    not more than the published 0.004.
    """
    rest = min(max(0.004 * (batch_size / 1024) ** 1.5, 10 / total_steps), 0.004)
    return 1 - float(f"{rest:.2g}")


def header(
    flat: Flat,
    plan: Plan,
    params: Any,
    mesh: jax.sharding.Mesh,
    *,
    recipe: str = "",
    data: str,
    evaluation: str,
    start: str,
    kernels: str,
    workdir: epath.Path,
) -> list[str]:
    """Returns the lines that say what is about to run.

    Args:
      flat: the config.
      plan: its length.
      params: the student's, {"backbone": ..., "head": ...}.
      mesh: the devices.
      recipe: the config's name, and in what it departs from it; "" leaves the line out.
      data: name and size of the training data.
      evaluation: what is measured of the teacher, and how often.
      start: from what the run starts; may have several lines.
      kernels: what computes the step.
      workdir: where it writes.
    """
    millions = {
        part: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
        for part, tree in params.items()
    }
    epochs = plan.total_steps / plan.steps_per_epoch
    rows = {
        **({"recipe": recipe} if recipe else {}),
        "model": (
            f"{in_words(section(flat, 'model'))}; {flat['head.prototypes']} prototypes; "
            f"{flat['dtype']}"
        ),
        "parameters": (
            f"{millions['backbone']:.2f} M backbone + {millions['head']:.2f} M head, in student "
            "and in teacher"
        ),
        "devices": (
            f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {num_processes()} process"
            f"{'es' if num_processes() > 1 else ''}"
        ),
        "kernels": kernels,
        "data": data,
        "evaluation": evaluation,
        "length": (
            f"{plan.total_steps:,} steps of {plan.batch_size} images; {epochs:g} epochs of "
            f"{plan.steps_per_epoch:,} steps"
        ),
        "rate": _rate(section(flat, "optim"), plan),
        **({"lora": lora_in_words(flat, plan, params)} if PART in params else {}),
        **({"frozen": _frozen(flat, plan, params)} if flat["optim.freeze"] else {}),
        **({"gram": _gram(flat, plan)} if flat["gram.weight"] else {}),
        **({"high res": _high_res(flat, plan)} if flat["high_res.last"] else {}),
        "teacher": _momentum_in_words(flat, plan),
        "start": start,
        "writes": str(workdir),
    }
    title = f"ibot_jax {ibot_jax.__version__}, jax {jax.__version__}"
    indent = "\n" + " " * 13
    return [title, *(f"  {name:<11}{text}".replace("\n", indent) for name, text in rows.items())]


def rate_in_words(optim: Section, batch_size: int, scaling: str = "linear") -> str:
    """Returns the learning rate as the batch scales it, and to what it falls."""
    factor = {"linear": f" x {batch_size} / 256", "sqrt": f" x sqrt({batch_size} / 256)"}
    peak = peak_rate(optim.lr, batch_size, scaling)
    return (
        f"{peak:.4g} (optim.lr {optim.lr:g}{factor.get(scaling, '')}), then down to "
        f"{optim.min_lr:g}"
    )


def _rate(optim: Section, plan: Plan) -> str:
    text = rate_in_words(optim, plan.batch_size, optim.lr_scaling)
    if optim.schedule == "constant":
        cooldown = plan.steps("optim.cooldown", optim.cooldown)
        peak, _, fall = text.partition(", then ")
        text = f"{peak}, constant" + (
            f"; {fall} in the last {cooldown:,} steps" if cooldown else ""
        )
    if optim.layer_decay < 1:
        text += f"; x {optim.layer_decay:g} from layer to layer below"
    return text + (f"; {optim.rates}" if optim.rates else "")


def lora_in_words(flat: Flat, plan: Plan, params: Any) -> str:
    """Returns which adapters a run has, and how much of the student it trains.

    Args:
      flat: the config.
      plan: its length.
      params: the student's, or their shapes.
    """
    lora = make_lora(section(flat, "lora"))
    trained = _freezing(flat, plan).trained(params, plan.total_steps - 1)
    learned = jax.tree.map(lambda x, learns: x if learns else None, params, trained)
    adapters, ours, total = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params[PART], learned, params)
    )
    return (
        f"rank {lora.rank}, alpha {lora.alpha:g}, on {len(base_of(params))} layers "
        f"({lora.targets}), {adapters:,} parameters; {ours:,} of the student's {total:,} learn"
    )


def _freezing(flat: Flat, plan: Plan) -> Freezing:
    return make_freezing(flat["optim.freeze"], plan, adapters=bool(flat["lora.rank"]))


def _frozen(flat: Flat, plan: Plan, params: Any) -> str:
    """Returns how many parameters are frozen until when."""
    freezing, words = _freezing(flat, plan), []
    for start, end in itertools.pairwise((0, *freezing.thaws, None)):
        trained = freezing.trained(params, start)
        sizes = jax.tree.map(lambda x, mine: 0 if mine else x.size, params, trained)
        millions = sum(jax.tree.leaves(sizes)) / 1e6
        until = f" until step {end:,}" if end else " to the end"
        words.append(f"{millions:.2f} M parameters{until}" if millions else "then none")
    return f"{', '.join(words)} ({freezing.text})"


def _gram(flat: Flat, plan: Plan) -> str:
    """Returns with what likenesses of patches are compared, and when that changes."""
    gram = section(flat, "gram")
    if gram.teacher == "current":
        return f"{gram.weight:g} x gram loss with the teacher of each step"
    start = plan.steps("gram.start", gram.start)
    height, width = gram_size(gram, section(flat, "data"))
    first = flat["frozen.gram"] or f"the teacher of step {start:,}"
    text = f"{gram.weight:g} x gram loss from step {start:,}, with {first} at {height} x {width} px"
    if not gram.every:
        return text
    most = f", {gram.updates} times" if gram.updates else ""
    every = plan.steps("gram.every", gram.every)
    return f"{text}; the teacher takes its place every {every:,} steps{most}"


def _high_res(flat: Flat, plan: Plan) -> str:
    """Returns from when on views have other sizes, and which."""
    high_res, data = section(flat, "high_res"), section(flat, "data")
    steps = plan.steps("high_res.last", high_res.last)
    views = [_sizes(views) for views in late_views(high_res, data)]
    whole = sum(high_res.shares)
    shares = [f" in {share / whole:.3g} of the batches" for share in high_res.shares]
    if len(views) == 1:
        shares = [""]
    height, width = data.global_size
    return (
        f"the last {steps:,} steps, from step {plan.total_steps - steps:,} on: "
        f"{'; '.join(map(''.join, zip(views, shares, strict=True)))}; "
        f"evaluations stay at {height} x {width} px"
    )


def _sizes(data: Section) -> str:
    sizes = [data.global_size] + [data.local_size] * bool(data.local_views)
    return f"views of {' and '.join(f'{height} x {width}' for height, width in sizes)} px"


def _momentum_in_words(flat: Flat, plan: Plan) -> str:
    first, last = flat["teacher_momentum"], flat["teacher_momentum_end"]
    way = "constant" if first == last else f"{'rising' if last > first else 'falling'} to {last:g}"
    text = f"momentum {first:g}, {way}"
    if plan.batch_size < 1024:
        suggested = suggested_momentum(plan.batch_size, plan.total_steps)
        text += f"; suggested for this batch and length: teacher_momentum {suggested:g}"
    return text
