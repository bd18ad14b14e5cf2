"""Configs by dotted names: "optim.lr" is `config.optim.lr`."""

from typing import Any

from ml_collections import ConfigDict

from ibot_jax.config.keys import Keys


def make_config(keys: Keys) -> ConfigDict:
    """Returns the config of all defaults, a section for each part of a key before a dot."""
    config = ConfigDict()
    for name, key in keys.items():
        *sections, leaf = name.split(".")
        place = config
        for section in sections:
            if section not in place:
                place[section] = ConfigDict()
            place = place[section]
        place[leaf] = key.default
    return config


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as {"optim.lr": value, ...}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat
