"""Which parameters the optimiser treats apart: frozen ones, last layers, modules of a student."""

import jax

from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params, names_of
from ibot_jax.optim.freezing import KEY, Freezing

_LAST_LAYERS = ("last_layer", "patch_last_layer")


_PATCH_HEAD = "patch_mlp_0"  # is there where patch tokens have a head of their own


def is_last_layer(name: str) -> bool:
    """Returns whether a parameter is one of the prototypes."""
    return any(part in _LAST_LAYERS for part in name.split("/"))


def modules(params: Params) -> Params:
    """Returns the tree with its module's name at each leaf.

    Modules are the branches of the tree, "backbone" and "head"; where patch tokens have a head of
    their own, that is "patch_head".
    """

    def module(name: str) -> str:
        first, _, rest = name.partition("/")
        is_patch_head = rest.startswith("patch_") and _PATCH_HEAD in params[first]
        return f"patch_{first}" if is_patch_head else first

    return jax.tree.map(module, names_of(params))


def parameter_groups(
    params: Params, *, freezing: Freezing, freeze_last_layer: int, norm_last_layer: bool
) -> Params:
    """Labels every leaf "fixed", "last_layer", "rest" or "frozen_I".

    Fixed are the prototypes' norms `g` where `norm_last_layer`, and what is frozen for the whole
    run. Last layers (class and patch) are those that the run freezes at its start in any case;
    "frozen_I" thaws at the I-th of `freezing.thaws`, and later than last layers do.

    Args:
      params: a tree with the parameters' names.
      freezing: what is frozen.
      freeze_last_layer: steps in which last layers are.
      norm_last_layer: whether the prototypes' norms stay as they are.

    Raises:
      UserError: as `Freezing.steps`; or if what is frozen leaves nothing to train at first.
    """

    def label(name: str, frozen: int) -> str:
        is_last = is_last_layer(name)
        if (is_last and norm_last_layer and name.endswith("/g")) or 0 < frozen == freezing.total:
            return "fixed"
        if is_last and frozen <= freeze_last_layer:
            return "last_layer"
        return f"frozen_{freezing.thaws.index(frozen)}" if frozen else "rest"

    groups = jax.tree.map(label, names_of(params), freezing.steps(params))
    found = set(jax.tree.leaves(groups))
    trained = {"rest"} if freeze_last_layer else {"rest", "last_layer"}
    if freezing.entries and not found & trained:
        hint = ", or shorten optim.freeze_last_layer" if "last_layer" in found else ""
        raise UserError(
            f"{KEY}={freezing.text!r} leaves nothing to train at first; name fewer parameters{hint}"
        )
    return groups
