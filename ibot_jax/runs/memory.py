"""What a run takes of memory at the very least, against what its devices and this host have.

Sizes that cannot fit are found before anything compiles. The bound counts what every program needs
that trains such a model: the state and its gradients, the views of a batch, and the input of each
block, which the backward pass begins from. What a step really needs is more; the compiler knows
(`python -m ibot_jax.tools.bench step`).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax

from ibot_jax.config import durations, globs
from ibot_jax.config.anchor import anchor_is_kept, gram_size
from ibot_jax.config.flat import Flat, section
from ibot_jax.config.high_res import Resized, largest_views
from ibot_jax.config.host import host_memory, in_words
from ibot_jax.config.section import Section
from ibot_jax.models import counts
from ibot_jax.models.architectures import architecture_of, geometry_of
from ibot_jax.models.build import attention_in_memory
from ibot_jax.parallel.processes import num_processes

# Copies of a parameter: student, gradient, moments, and the teacher.
_COPIES = {"adamw": 5, "sgd": 4, "lars": 4}
_FROZEN = 2  # student and teacher
_ITEM = {"bfloat16": 2, "float32": 4, "float64": 8}  # bytes


@dataclasses.dataclass(frozen=True)
class Need:
    """What takes memory.

    Attributes:
      what: in words.
      keys: of the config, on which it depends; the first one most.
      size: bytes.
    """

    what: str
    keys: tuple[str, ...]
    size: int


def num_parameters(flat: Flat) -> dict[tuple[str, ...], int]:
    """Returns how many parameters a student has, by the keys on which their number depends.

    In closed form: a model that does not fit could take forever to describe.
    """
    model, head, data = (section(flat, name) for name in ("model", "head", "data"))
    of_blocks, others = counts.parameters(model, data.channels, data.global_size)
    width = geometry_of(model).width
    of_class, of_patches = counts.head_sizes(head)
    mlps = [of_class, of_patches] if head.separate else [of_class]
    mlp = sum((width + 1 + hidden + 1) * hidden + (hidden + 1) * units for hidden, units in mlps)
    outputs = head.prototypes * (of_class[1] + head.weight_norm)
    if not head.shared:
        outputs += head.patch_prototypes * (of_patches[1] + head.weight_norm)
    return {
        ("model.width", depth_key(model), "model.mlp_ratio"): of_blocks,
        ("data.global_size", "model.patch_size", "model.width"): others,
        ("head.hidden_dim", "head.bottleneck_dim", "model.width"): mlp,
        ("head.prototypes", "head.bottleneck_dim"): outputs,
    }


def depth_key(model: Section) -> str:
    """Returns the key that says how many blocks a backbone has."""
    return f"model.{architecture_of(model).depth_key}"


def device_needs(
    flat: Flat, num_devices: int, frozen: Mapping[str, int] | None = None
) -> Iterator[Need]:
    """Yields what one of the devices of a run takes memory for; see `memory_problems`."""
    model, item = section(flat, "model"), _ITEM[flat["dtype"]]
    parts = flat["mesh.fsdp"] * flat["mesh.tensor"]
    copies = _COPIES[flat["optim.name"]]
    if flat["lora.rank"] or any(
        durations.share(text, flat["duration"], flat["batch_size"]) >= 1
        for _, text in globs.parse(flat["optim.freeze"])
    ):
        copies = _FROZEN  # of all, at the least: which parameters they are, only their names tell
    for keys, number in num_parameters(flat).items():
        yield Need("state", keys, number * copies * max(item, 4) // parts)
    if anchor_is_kept(section(flat, "gram")) and not flat["frozen.gram"]:
        number = sum(counts.parameters(model, flat["data.channels"], flat["data.global_size"]))
        yield Need("the gram teacher", ("gram.weight",), number * max(item, 4) // parts)
    for name, number in (frozen or {}).items():  # whose activations are gone before the student's
        yield Need("a frozen network", (f"frozen.{name}",), number * max(item, 4) // parts)
    rows = flat["batch_size"] * flat["mesh.tensor"] // num_devices
    at_once = math.ceil(rows / flat["grad_accum_steps"])
    if pixels := _gram_views(flat):
        keys = "gram.scale", _size_key(flat, "global"), "batch_size"
        yield Need("views of the gram teacher", keys, pixels * (rows + at_once * item))
    for kind in ("global", "local"):
        size, number = getattr(_largest(flat), f"{kind}_size"), flat[f"data.{kind}_views"]
        if not number:
            continue
        pixels = number * math.prod(size) * flat["data.channels"]
        keys = _size_key(flat, kind), f"data.{kind}_views", "batch_size"
        yield Need(f"{kind} views", keys, pixels * (rows + at_once * item))
        stages = counts.stages(model, size, flat["data.global_size"])
        inputs = at_once * number * sum(s.tokens * s.width * s.depth for s in stages) * item
        yield Need(f"tokens of {kind} views", ("model.width", depth_key(model), *keys), inputs)
        if weights := attention_in_memory(model, stages, flat["dtype"]):
            weights *= at_once * number * item
            yield Need(f"attention of {kind} views", (*keys, "model.patch_size"), weights)


def _largest(flat: Flat) -> Section:
    """Returns the section `data` where views are largest."""
    return largest_views(section(flat, "high_res"), section(flat, "data"))


def _size_key(flat: Flat, kind: str) -> str:
    """Returns the key that says how large views are there."""
    late = isinstance(_largest(flat), Resized)
    return f"high_res.{kind}_sides" if late else f"data.{kind}_size"


def _gram_views(flat: Flat) -> int:
    """Returns the pixels that the gram teacher sees of an image."""
    gram = section(flat, "gram")
    if not anchor_is_kept(gram):
        return 0
    pixels = math.prod(gram_size(gram, _largest(flat)))
    return flat["data.global_views"] * pixels * flat["data.channels"]


def host_needs(flat: Flat, num_processes: int) -> Iterator[Need]:
    """Yields what a host takes memory for beside its devices."""
    rows = -(-flat["batch_size"] // num_processes)
    for kind in ("global", "local"):
        pixels = math.prod(getattr(_largest(flat), f"{kind}_size")) * flat["data.channels"]
        pixels *= flat[f"data.{kind}_views"]
        keys = _size_key(flat, kind), f"data.{kind}_views", "batch_size"
        yield Need(f"a batch's {kind} views", keys, rows * pixels)
    if pixels := _gram_views(flat):
        keys = "gram.scale", _size_key(flat, "global"), "batch_size"
        yield Need("a batch's views of the gram teacher", keys, rows * pixels)
    if flat["knn.every"]:
        image = flat["knn.resize"] ** 2 * flat["data.channels"]
        yield Need("an image to evaluate", ("knn.resize",), image)
        pixels = math.prod(flat["data.global_size"]) * flat["data.channels"]
        batch = -(-flat["knn.batch_size"] // num_processes) * pixels
        yield Need("a batch to evaluate", ("knn.batch_size", "data.global_size"), batch)


def memory_problems(flat: Flat, frozen: Mapping[str, int] | None = None) -> Iterator[str]:
    """Yields a sentence if devices or host have too little memory for a run.

    Args:
      flat: the config, checked.
      frozen: how many parameters the frozen networks have, by name, once that is known.
    """
    count, local = jax.device_count(), jax.local_device_count()
    on_device = list(device_needs(flat, count, frozen))
    on_host = list(host_needs(flat, num_processes()))
    device = jax.local_devices()[0]
    if device.platform == "cpu":  # devices of the host's own memory
        on_host += [dataclasses.replace(need, size=need.size * local) for need in on_device]
    else:
        limit = (device.memory_stats() or {}).get("bytes_limit", math.inf)
        yield from _too_much(on_device, limit, f"a {device.device_kind}", flat)
    yield from _too_much(on_host, host_memory(), "this host", flat)


def _too_much(needs: list[Need], limit: float, whose: str, flat: Flat) -> Iterator[str]:
    total = sum(need.size for need in needs)
    if total <= limit:
        return
    most = max(needs, key=lambda need: need.size)
    shown = ", ".join(f"{key}={flat[key]!r}" for key in most.keys)
    yield (
        f"{shown}: the run takes {in_words(total)} of memory at the least, of which "
        f"{most.what} {in_words(most.size)}, and {whose} has {in_words(limit)}; {_help(most)}"
    )


def _help(most: Need) -> str:
    if most.what == "state":
        return f"lower {most.keys[0]}, or spread the state over devices (mesh.fsdp, mesh.tensor)"
    if most.what == "a frozen network":
        return "give a smaller one, or spread it over devices (mesh.fsdp, mesh.tensor)"
    if "batch_size" in most.keys:
        return f"lower {most.keys[0]} or batch_size, or raise grad_accum_steps"
    return f"lower {most.keys[0]}"
