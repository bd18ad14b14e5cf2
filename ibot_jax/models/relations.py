"""What several keys of a model must have in common, for `config.problems`."""

from collections.abc import Iterator

from ibot_jax.config.flat import Flat, section
from ibot_jax.config.problems import stated
from ibot_jax.models.geometry import geometry_of


def _check_heads(flat: Flat) -> Iterator[str]:
    width = flat["model.width"]
    if width % flat["model.heads"]:
        problem = f"does not divide model.width={width}; use a number of heads that does"
        yield stated(flat, "model.heads", problem)


def _check_mlp(flat: Flat) -> Iterator[str]:
    width = flat["model.width"]
    if width * flat["model.mlp_ratio"] < 1:
        problem = f"of model.width={width} leaves no hidden unit; use at least {1 / width:.3g}"
        yield stated(flat, "model.mlp_ratio", problem)


def _check_kernels(flat: Flat) -> Iterator[str]:
    if flat["model.kernels"] not in ("auto", "xla") and flat["dtype"] != "bfloat16":
        problem = f'needs dtype="bfloat16", not {flat["dtype"]!r}; use "auto"'
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


def _check_global_size(flat: Flat) -> Iterator[str]:
    yield from _whole_patches(flat, "data.global_size")


def _check_local_size(flat: Flat) -> Iterator[str]:
    if flat["data.local_views"]:
        yield from _whole_patches(flat, "data.local_size")


def _whole_patches(flat: Flat, key: str) -> Iterator[str]:
    geometry = geometry_of(section(flat, "model"))
    if geometry.whole(flat[key]) != tuple(flat[key]):
        yield stated(flat, key, f"must be divisible by model.patch_size={geometry.patch_size}")


RELATIONS = (
    _check_heads,
    _check_mlp,
    _check_kernels,
    _check_prototypes,
    _check_global_size,
    _check_local_size,
)


def split_over_tensor(flat: Flat) -> Iterator[tuple[str, int]]:
    """Yields what the devices along the mesh axis `tensor` divide among them: name and number."""
    geometry = geometry_of(section(flat, "model"))
    for heads in geometry.heads:
        yield "model.heads", heads
    for width in geometry.widths:
        yield "hidden units of the MLPs", int(width * flat["model.mlp_ratio"])
    for key in ("head.prototypes", "head.patch_prototypes"):
        yield key, flat[key]
