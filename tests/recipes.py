"""The configs that come with the project, by name: "cifar10", "cifar10:reference"."""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from ibot_jax.cli.config_file import parse_config


def load(folder: pathlib.Path, name: str) -> ConfigDict:
    """Returns a config, as the command line reads it."""
    file, colon, argument = name.partition(":")
    path = f"{folder / file}.py{colon}{argument}"
    return parse_config(["", f"--config={path}"], flags.FlagValues())
