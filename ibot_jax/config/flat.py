"""Configs by dotted names: "optim.lr" is `config.optim.lr`."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ibot_jax.config.keys import Keys
from ibot_jax.config.section import Section

Flat = Mapping[str, Any]  # a config, {"optim.lr": value, ...}


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
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def open_key(config: ConfigDict, name: str) -> None:
    """Leaves a key open: its value is None until it is given one of the type that it has."""
    section, leaf = name.split(".")
    config[section][leaf] = placeholder(type(config[section][leaf]))


def with_values(config: ConfigDict, values: Flat) -> ConfigDict:
    """Returns a copy of a config with other values of some keys."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(dict(values))
    return copy


def as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as config.json holds it: flattened, with lists for tuples."""
    return json.loads(json.dumps(flatten(config)))


def section(flat: Flat, name: str) -> Section:
    """Returns a section of a flattened config, "" for the keys of none.

    A key that is missing is a KeyError of its whole name.
    """
    return _FlatSection(flat, f"{name}." if name else "")


@dataclasses.dataclass(frozen=True)
class _FlatSection:
    flat: Flat
    prefix: str

    def __getattr__(self, leaf: str) -> Any:
        return self.flat[self.prefix + leaf]
