"""Which parameters the optimiser treats apart: last layers, which a run freezes at its start."""

import jax
import optax


def parameter_groups(params: optax.Params, norm_last_layer: bool) -> optax.Params:
    """Labels every leaf "fixed", "last_layer" or "rest".

    Fixed are the prototypes' norms `g` where `norm_last_layer`; last layers (class and patch)
    are those that the run freezes at its start.
    """

    def label(path, _):
        names = [entry.key for entry in path]
        if not any(name in ("last_layer", "patch_last_layer") for name in names):
            return "rest"
        return "fixed" if norm_last_layer and names[-1] == "g" else "last_layer"

    return jax.tree_util.tree_map_with_path(label, params)
