"""Keys that a config leaves open, with None for a value: the weights of `init_from` tell them."""

from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat, open_key
from ibot_jax.config.keys import Kind
from ibot_jax.config.section import Section

# Of sections that describe a network, what describes its training alone.
_OF_TRAINING = (
    *("model.drop_path", "model.drop_path_kind", "head.norm_last_layer", "model.rope_dtype"),
    *("model.rope_shift", "model.rope_jitter", "model.rope_rescale"),
)


def _describing(section: str) -> tuple[str, ...]:
    return tuple(
        name
        for name, key in KEYS.items()
        if name.startswith(section) and key.kind is Kind.LEARNED and name not in _OF_TRAINING
    )


BACKBONE, HEAD = _describing("model."), _describing("head.")
PIXELS = ("data.global_size", "data.channels", "data.mean", "data.std")
FOLLOWING = ("data.local_size", "knn.resize")  # from the patches and the size of global views


def leave_open(config: Section) -> None:
    """Leaves open all keys of a config that weights tell of their model."""
    for name in (*BACKBONE, *HEAD, *PIXELS, *FOLLOWING):
        open_key(config, name)


def open_keys(flat: Flat) -> list[str]:
    """Returns the keys that a config leaves open."""
    return [name for name, value in flat.items() if value is None]
