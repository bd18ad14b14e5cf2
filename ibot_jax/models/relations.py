"""What several keys of a model must have in common, for `config.problems`."""

from collections.abc import Iterator

from ibot_jax.config.anchor import anchor_is_kept, gram_size
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat, section
from ibot_jax.config.high_res import all_views, late_views
from ibot_jax.config.problems import stated
from ibot_jax.models.architectures import (
    ARCHITECTURES,
    Architecture,
    architecture_of,
    geometry_of,
)
from ibot_jax.models.geometry import Geometry


def _check_arch(flat: Flat) -> Iterator[str]:
    arch = flat["model.arch"]
    for other, architecture in ARCHITECTURES.items():
        for key in (f"model.{leaf}" for leaf in architecture.keys if other != arch):
            default = KEYS[key].default
            if flat[key] != default:
                problem = f"is for model.arch={other!r}, not {arch!r}; leave it at {default!r}"
                yield stated(flat, key, problem)


def _check_stages(flat: Flat) -> Iterator[str]:
    depths, heads = flat["model.stage_depths"], flat["model.stage_heads"]
    if not 0 < len(depths) == len(heads):
        problem = f"and model.stage_heads={heads!r} need as many entries, at least one"
        yield stated(flat, "model.stage_depths", problem)


def _check_heads(flat: Flat) -> Iterator[str]:
    geometry = geometry_of(section(flat, "model"))
    for width, heads in zip(geometry.widths, geometry.heads, strict=False):
        if width % heads:
            whose = "the width of its stage, " if len(geometry.widths) > 1 else "model.width="
            problem = f"does not divide {whose}{width}; use a number of heads that does"
            yield stated(flat, _heads_key(flat), problem)


def _heads_key(flat: Flat) -> str:
    return f"model.{_architecture(flat).heads_key}"


def _architecture(flat: Flat) -> Architecture:
    return architecture_of(section(flat, "model"))


def _check_mlp(flat: Flat) -> Iterator[str]:
    width = flat["model.width"]
    if min(geometry_of(section(flat, "model")).hidden) < 1:
        problem = f"of model.width={width} leaves no hidden unit; use at least {1 / width:.3g}"
        yield stated(flat, "model.mlp_ratio", problem)


def _check_positions(flat: Flat) -> Iterator[str]:
    rotary = flat["model.positions"] == "rotary"
    kind, other = ("learned", "pos_") if rotary else ("rotary", "rope_")
    for key in KEYS:
        if key.startswith(f"model.{other}") and flat[key] != KEYS[key].default:
            problem = f'is for model.positions="{kind}"; leave it at {KEYS[key].default!r}'
            yield stated(flat, key, problem)
    if rotary and flat["model.width"] // flat["model.heads"] % 4:
        problem = (
            f"of model.width={flat['model.width']} has {flat['model.width'] // flat['model.heads']}"
            " columns; rotary positions need a multiple of 4"
        )
        yield stated(flat, "model.heads", problem)
    shortest, longest = flat["model.rope_min_period"], flat["model.rope_max_period"]
    if bool(shortest) != bool(longest) or shortest > longest:
        problem = f"and model.rope_max_period={longest!r} have to rise, or both to be 0"
        yield stated(flat, "model.rope_min_period", problem)


def _check_kernels(flat: Flat) -> Iterator[str]:
    if flat["model.kernels"] not in ("auto", "xla") and flat["dtype"] != "bfloat16":
        problem = f'needs dtype="bfloat16", not {flat["dtype"]!r}; use "auto"'
        yield stated(flat, "model.kernels", problem)
    if flat["model.kernels"] not in ("auto", "xla") and _architecture(flat).positions != "none":
        problem = f'takes no model.arch="{flat["model.arch"]}"; use "auto"'
        yield stated(flat, "model.kernels", problem)


def _check_prototypes(flat: Flat) -> Iterator[str]:
    same = flat["head.prototypes"] == flat["head.patch_prototypes"]
    if (flat["head.shared"] or flat["head.shared_teacher"]) and not same:
        problem = (
            f"differs from head.prototypes={flat['head.prototypes']}, but a shared last layer has "
            "one number of outputs; make them equal, or set head.shared and head.shared_teacher "
            "to false"
        )
        yield stated(flat, "head.patch_prototypes", problem)


def _check_head(flat: Flat) -> Iterator[str]:
    for key in ("head.shared", "head.shared_teacher"):
        if flat["head.separate"] and flat[key]:
            problem = "shares a last layer between heads that head.separate=True keeps apart"
            yield stated(flat, key, f"{problem}; set it to false")
    for key in ("head.patch_hidden_dim", "head.patch_bottleneck_dim"):
        if flat[key] and not flat["head.separate"]:
            yield stated(flat, key, "is of a separate head; set head.separate to true, or leave it")


def _check_global_size(flat: Flat) -> Iterator[str]:
    yield from _whole_patches(flat, "data.global_size")


def _check_local_size(flat: Flat) -> Iterator[str]:
    if flat["data.local_views"]:
        yield from _whole_patches(flat, "data.local_size")


def _check_gram_size(flat: Flat) -> Iterator[str]:
    gram, data = section(flat, "gram"), section(flat, "data")
    if not anchor_is_kept(gram):
        return
    for views in all_views(section(flat, "high_res"), data):
        size = gram_size(gram, views)
        if geometry_of(section(flat, "model")).whole(size) != size:
            whose = "data.global_size=" if views is data else "the high_res.global_sides "
            problem = f"times {whose}{views.global_size} is not of whole patches; use 1 or 2"
            yield stated(flat, "gram.scale", problem)


def _check_high_res(flat: Flat) -> Iterator[str]:
    data, geometry = section(flat, "data"), geometry_of(section(flat, "model"))
    late = late_views(section(flat, "high_res"), data)
    for kind in ("global", "local") if data.local_views else ("global",):
        for views in late:
            size = getattr(views, f"{kind}_size")
            if geometry.whole(size) != size:
                height, width = size
                problem = f"makes views of {height} x {width} pixels, which {_not_whole(geometry)}"
                yield stated(flat, f"high_res.{kind}_sides", problem)


def _whole_patches(flat: Flat, key: str) -> Iterator[str]:
    geometry = geometry_of(section(flat, "model"))
    if geometry.whole(flat[key]) != tuple(flat[key]):
        yield stated(flat, key, _not_whole(geometry))


def _not_whole(geometry: Geometry) -> str:
    stride = f"model.patch_size={geometry.patch_size}"
    if geometry.stride > geometry.patch_size:
        stride = f"{geometry.stride}, the side of an output token ({stride}, and stages)"
    return f"must be divisible by {stride}"


RELATIONS = (
    _check_arch,
    _check_stages,
    _check_heads,
    _check_mlp,
    _check_positions,
    _check_kernels,
    _check_prototypes,
    _check_head,
    _check_global_size,
    _check_local_size,
    _check_gram_size,
    _check_high_res,
)


def split_over_tensor(flat: Flat) -> Iterator[tuple[str, int]]:
    """Yields what the devices along the mesh axis `tensor` divide among them: name and number."""
    geometry = geometry_of(section(flat, "model"))
    for heads in geometry.heads:
        yield _heads_key(flat), heads
    for hidden in geometry.hidden:
        yield "hidden units of the feed-forward networks", hidden
    for key in ("head.prototypes", "head.patch_prototypes"):
        yield key, flat[key]
