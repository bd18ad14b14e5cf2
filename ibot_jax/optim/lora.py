"""LoRA: low-rank adapters in place of a backbone's matrices (Hu et al. 2021, section 4.1).

A matrix W [inputs, outputs] that has an adapter counts as W + alpha / rank A B, with
A [inputs, rank] and B [rank, outputs]. A and B are trained, W stays as it is; B begins at zero, so
that nothing has changed yet. Adapters lie beside the backbone in the student's parameters,

    {"backbone": ..., "head": ..., "lora": {"blocks_0": {"attn": {"qkv": {"a": A, "b": B}}}}}

and networks see what is `merged`: no module and no kernel knows of them. The teacher averages the
merged matrices; the average of A times that of B would be another one.
"""

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable

import flax.traverse_util
import jax
import jax.numpy as jnp

from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params

PART = "lora"
KEY = "lora.targets"

Path = tuple[str, ...]  # of a layer in the backbone, ("blocks_0", "attn", "qkv")


@dataclasses.dataclass(frozen=True)
class Lora:
    """The adapters of a run.

    Attributes:
      rank: columns of A and rows of B; 0 for no adapters.
      alpha: over the rank, the factor of A B.
      targets: globs of layers, with spaces between them, as the config writes them. A glob names
        a layer by its whole path or by the end of it: "attn/qkv" is that of all blocks.
    """

    rank: int = 0
    alpha: float = 0.0
    targets: str = ""

    def init(self, rng: jax.Array, params: Params) -> Params:
        """Returns a student's parameters with fresh adapters; as they are where the rank is 0.

        A is uniform within 1 / sqrt(inputs), as published code has it.

        Args:
          rng: key.
          params: {"backbone": ..., ...}.

        Raises:
          UserError: if a target names no layer, or the rank is larger than a side of one.
        """
        if not self.rank:
            return params
        kernels = _kernels(params["backbone"])
        paths, adapters = self._chosen(kernels), {}
        for path, key in zip(paths, jax.random.split(rng, len(paths)), strict=True):
            (inputs, outputs), dtype = kernels[path].shape, kernels[path].dtype
            if self.rank > min(inputs, outputs):
                raise UserError(
                    f"lora.rank={self.rank} is larger than a side of {'/'.join(path)}, "
                    f"{inputs} x {outputs}; lower it, or leave that out of {KEY}"
                )
            bound = inputs**-0.5
            adapters[path] = {
                "a": jax.random.uniform(key, (inputs, self.rank), dtype, -bound, bound),
                "b": jnp.zeros((self.rank, outputs), dtype),
            }
        return params | {PART: flax.traverse_util.unflatten_dict(adapters)}

    def merged(self, params: Params) -> Params:
        """Returns a student's parameters as networks take them: adapters merged, none beside."""
        if PART not in params:
            return params
        kernels = {
            path: kernel + self.alpha / self.rank * _product(params[PART], path)
            for path, kernel in base_of(params).items()
        }
        return with_base(networks(params), kernels)

    def _chosen(self, layers: Iterable[Path]) -> list[Path]:
        """Returns the paths of the layers with adapters, in their order."""
        names = {"/".join(path): path for path in layers}
        chosen = set()
        for glob in self.targets.split():
            found = {name for name in names if _names(glob, name)}
            if not found:
                raise UserError(
                    f"{KEY}={self.targets!r} has {glob!r}, which names no matrix of the backbone; "
                    f"{_hint(glob, list(names))}"
                )
            chosen |= found
        return [path for name, path in names.items() if name in chosen]


def make_lora(section: Section) -> Lora:
    """Returns the adapters that the section `lora` of a config asks for."""
    return Lora(section.rank, section.alpha, section.targets)


def networks(params: Params) -> Params:
    """Returns a student's parameters without adapters, what they stand beside as it is."""
    return {part: tree for part, tree in params.items() if part != PART}


def base_of(params: Params) -> dict[Path, jax.Array]:
    """Returns the matrices that have adapters, by the paths of their layers, without those."""
    adapted = {path[:-1] for path in flax.traverse_util.flatten_dict(params.get(PART, {}))}
    kernels = _kernels(params["backbone"]) if adapted else {}
    return {path: kernel for path, kernel in kernels.items() if path in adapted}


def with_base(params: Params, kernels: dict[Path, jax.Array]) -> Params:
    """Returns parameters with other matrices in the layers of these paths."""
    backbone = flax.traverse_util.flatten_dict(params["backbone"])
    backbone |= {(*path, "kernel"): kernel for path, kernel in kernels.items()}
    return params | {"backbone": flax.traverse_util.unflatten_dict(backbone)}


def _kernels(backbone: Params) -> dict[Path, jax.Array]:
    flat = flax.traverse_util.flatten_dict(backbone)
    return {
        path[:-1]: leaf for path, leaf in sorted(flat.items()) if path[-1] == "kernel"
    }  # all of them are matrices


def _product(adapters: Params, path: Path) -> jax.Array:
    for name in path:
        adapters = adapters[name]
    # Exact whatever the dtype of the computation: it is small, and so are the gradients'.
    return jnp.matmul(adapters["a"], adapters["b"], precision=jax.lax.Precision.HIGHEST)


def _names(glob: str, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (glob, f"*/{glob}"))


def _hint(glob: str, names: list[str]) -> str:
    # "attn/qkv" of "blocks_0/attn/qkv", as most targets are written.
    short = dict.fromkeys("/".join(name.split("/")[-2:]) for name in names)
    close = difflib.get_close_matches(glob, [*short, *names], n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(short)}"
