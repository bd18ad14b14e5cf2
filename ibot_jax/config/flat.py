"""Configs by dotted names: "optim.lr" is `config.optim.lr`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ibot_jax.config.keys import Keys
from ibot_jax.config.section import Section


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


@dataclasses.dataclass(frozen=True)
class _FlatSection:
    """A section of a flattened config."""

    flat: Mapping[str, Any]
    name: str

    def __getattr__(self, leaf: str) -> Any:
        return self.flat[f"{self.name}.{leaf}"]  # a KeyError names what is missing


def section(flat: Mapping[str, Any], name: str) -> Section:
    """Returns a section of a flattened config; a key that is missing is a KeyError."""
    return _FlatSection(flat, name)
