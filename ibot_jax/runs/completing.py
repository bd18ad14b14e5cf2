"""A config and the weights that a run starts from: what they tell, and whether the two agree.

Keys that the config leaves open are told by the weights; those that it has must be theirs, but for
what `starting` can adapt: size of images and patches, channels, and blocks where the config names
them.
"""

import math
from collections.abc import Iterator

from ibot_jax.config import selections
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat, flatten, section, with_values
from ibot_jax.config.open_keys import BACKBONE, HEAD, open_keys
from ibot_jax.config.problems import refuse, stated
from ibot_jax.config.section import Section
from ibot_jax.config.sizes import SIZES
from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.architectures import architecture_of, geometry_of, in_words
from ibot_jax.models.geometry import stage_windows
from ibot_jax.parallel.agreement import first_says, same_end
from ibot_jax.parallel.processes import is_first
from ibot_jax.runs.check import check_config
from ibot_jax.runs.origin import Origin, read_origin
from ibot_jax.weights.checkpoints import complete_steps
from ibot_jax.weights.history import CONFIG, read_config

_CONTINUE = "configs/continue.py takes the model from the weights"
# Local views are to global ones as in the published recipes, and so is the size before the crop of
# evaluations.
_LOCAL, _RESIZED = 96 / 224, 256 / 224


def complete(config: Section, workdir: str) -> tuple[Section, Origin | None]:
    """Returns a whole config, and what the run starts from: None of a run that goes on.

    The keys that are open are told by the weights; of a run that goes on, by its own config.

    Args:
      config: checked, but for keys that are open.
      workdir: of the run.

    Raises:
      UserError: if the weights cannot be read, or contradict the config.
    """
    flat = flatten(config)
    if not flat["init_from"]:
        return config, None
    begun = False
    with same_end():
        if is_first():
            begun = bool(complete_steps(absolute_path(workdir) / "checkpoints"))
    if first_says(begun):
        origin, told = None, _told_by_run(workdir) if open_keys(flat) else {}
    else:
        origin = read_origin(flat)
        told = origin.model or {}
    with same_end():
        if open_keys(flat):
            config = with_values(config, _values(flat, told, origin))
            check_config(config)
        if origin is not None:
            refuse(contradictions(flatten(config), origin))
    return config, origin


def _told_by_run(workdir: str) -> Flat:
    recorded = read_config(absolute_path(workdir))
    if recorded is None:
        raise UserError(f"{workdir} lacks {CONFIG}, which tells the model of its run; restore it")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()}


def _values(flat: Flat, told: Flat, origin: Origin | None) -> Flat:
    """Returns values of the keys that are open; those of a head that is not there by default."""
    if not told:
        raise UserError(
            f"init_from={flat['init_from']!r} lacks {CONFIG}, which tells its model; restore it, "
            "or use a config that says all of the model, such as configs/vits16.py"
        )
    with_head = origin is None or (origin.has_head and flat["init_head"] == "load")
    values = {
        name: told[name] if name in told and (with_head or name not in HEAD) else KEYS[name].default
        for name in open_keys(flat)
    }
    if origin is None:
        return values
    if "model.depth" in values and flat["init_blocks"]:
        values["model.depth"] = len(selections.blocks(flat["init_blocks"]))
    whole = {**flat, **values}
    geometry, size = geometry_of(section(whole, "model")), whole["data.global_size"]
    local = geometry.nearest([side * _LOCAL for side in size])
    follow = {
        "data.local_size": tuple(max(side, geometry.stride) for side in local),
        "knn.resize": round(max(size) * _RESIZED),
    }
    return values | {name: follow[name] for name in follow.keys() & values.keys()}


def contradictions(flat: Flat, origin: Origin) -> Iterator[str]:
    """Yields where a config and the weights that it starts from are of two models.

    Args:
      flat: the config, whole.
      origin: the weights.
    """
    there = origin.model
    path = origin.path
    if there is None:  # shapes will tell
        if flat["init_blocks"]:
            yield stated(flat, "init_blocks", f"needs a config beside {path}, which has none")
        return
    wrong = [key for key in BACKBONE if not _agree(key, flat, there)]
    if wrong == ["model.window"] and flat["model.window"] == there["model.window"]:
        size = there["data.global_size"]
        problem = f"makes other windows than those of {path}, for {size[0]}x{size[1]} pixels"
        yield stated(flat, "data.global_size", f"{problem}; use that size, or a larger one")
    elif wrong:
        model = section(there, "model")
        yield (
            f"init_from={path!r} holds a {in_words(model)}{_named(model)}: "
            f"{_listed(wrong, flat, there)}; set them so, or leave them: {_CONTINUE}"
        )
    if wrong:
        return
    yield from _block_problems(flat, there["model.depth"], path)
    try:
        selections.channels(flat["init_channels"], there["data.channels"], flat["data.channels"])
    except ValueError as error:
        yield stated(flat, "init_channels", str(error))
    if flat["init_head"] == "load" and origin.has_head:
        wrong = [key for key in HEAD if flat[key] != there[key]]
        if wrong:
            yield (
                f"init_from={path!r} has another head: {_listed(wrong, flat, there)}; set them so, "
                'or start a new head by init_head="fresh"'
            )


def _agree(key: str, flat: Flat, there: Flat) -> bool:
    if key in ("model.depth", "model.patch_size"):  # see `_block_problems`, `starting`
        return True
    if key == "model.window" and flat["model.arch"] == there["model.arch"] == "swin":
        return _windows(flat) == _windows(there)
    if key == "model.layer_scale":  # a first value, or none
        return bool(flat[key]) == bool(there[key])
    if isinstance(flat[key], float):
        return math.isclose(flat[key], there[key])
    return flat[key] == there[key]


def _windows(flat: Flat) -> list[int]:
    """Returns the sides of a Swin's windows, by which its tables are made; shifts may differ."""
    geometry = geometry_of(section(flat, "model"))
    grid = geometry.patches(flat["data.global_size"])
    return [side for side, _ in stage_windows(flat["model.window"], grid, len(geometry.depths))]


def _block_problems(flat: Flat, depth: int, path: str) -> Iterator[str]:
    wanted, text = flat["model.depth"], flat["init_blocks"]
    if flat["model.arch"] != "vit":
        if text:
            yield stated(flat, "init_blocks", "is for blocks of a vit; leave it at ''")
        return
    numbers = selections.blocks(text) if text else tuple(range(depth))
    if numbers and max(numbers) >= depth:
        yield stated(flat, "init_blocks", f"names blocks above {depth - 1}, the last of {path}")
    elif len(numbers) != wanted:
        which = f"init_blocks={text!r} names {len(numbers)}" if text else f"{path} has {depth}"
        ranges = [_range(min(depth, wanted - done)) for done in range(0, wanted, depth)]
        yield stated(
            flat,
            "model.depth",
            f"blocks, and {which}; say which become blocks 0 to {wanted - 1} by init_blocks, such "
            f'as "{",".join(ranges)}", where one may come twice',
        )


def _range(number: int) -> str:
    return "0" if number == 1 else f"0-{number - 1}"


def _listed(keys: list[str], flat: Flat, there: Flat) -> str:
    return ", ".join(f"{key} is {there[key]!r} there and {flat[key]!r} here" for key in keys)


def _named(model: Section) -> str:
    """Returns the published size that a model has, or the nearest by width and depth, in words."""
    sizes, depth = SIZES[model.arch], architecture_of(model).depth_key

    def distance(name: str) -> float:
        size = sizes[name]
        deep = [sum(d) if isinstance(d, tuple) else d for d in (size[depth], getattr(model, depth))]
        return _ratio(*deep) * _ratio(size["width"], model.width)

    name = min(sizes, key=distance)
    same = all(getattr(model, key) == value for key, value in sizes[name].items())
    return f" ({'the size' if same else 'nearest to the size'} {name!r})"


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)
