"""Which parameters the optimiser treats apart: what is frozen, for a while or for the whole run."""

import jax

from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params, names_of
from ibot_jax.optim.freezing import KEY, Freezing

_LAST_LAYERS = ("last_layer", "patch_last_layer")


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
        path = name.split("/")
        is_last = any(layer in path for layer in _LAST_LAYERS)
        if (is_last and norm_last_layer and path[-1] == "g") or 0 < frozen == freezing.total:
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
