"""All that is wrong with a run as far as this host can know, its data included."""

import functools
from collections.abc import Iterator

from ml_collections import ConfigDict

from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import flatten
from ibot_jax.config.problems import Flat, config_problems, noted
from ibot_jax.runs.check import RELATIONS, length_problems, too_late


def problems_at_hand(config: ConfigDict, wrong: bool) -> list[str]:
    """Returns all that is wrong as far as it can be known without devices.

    Once something is wrong, data on this host is looked at for what else is.

    Args:
      config: of the run.
      wrong: whether something is already, beside the config.
    """
    flat = flatten(config)
    found = config_problems(flat, KEYS, (*RELATIONS, too_late))
    if found or wrong:
        with_data = functools.partial(_check_data, config)
        found = config_problems(flat, KEYS, (*RELATIONS, with_data))
    return found


def _check_data(config: ConfigDict, flat: Flat) -> Iterator[str]:
    """Opens the data, where that takes neither TensorFlow nor a network."""
    kind, _, path = flat["data.source"].partition(":")
    settings = {name: flat[f"data.{name}"] for name in ("data_dir", "max_per_class", "channels")}
    split, _, _ = flat["data.split"], flat["batch_size"], flat["duration"]
    if kind == "tfds" or "://" in path:
        yield from too_late(flat)
        return
    from ibot_jax.data.sources.opening import open_source  # not needed where nothing is wrong

    found = []
    with noted(found):
        source = open_source(flat["data.source"], split, key="data.split", **settings)
        found += length_problems(config, len(source), flat=flat)
    yield from found
