"""iBOT: image BERT pre-training with an online tokenizer, in JAX (arXiv 2111.07832)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibot_jax.models.parameters import Params
    from ibot_jax.python import Config, Run
    from ibot_jax.weights.model import Model

__version__ = "0.1.0"


def load(path: str, **options: Any) -> "tuple[Model, Params]":
    """Returns (model, params) of a run, a checkpoint or an export; see `load.load`."""
    # Here, so that importing ibot_jax imports no jax.
    from ibot_jax.cli.quiet import quiet_libraries
    from ibot_jax.errors import about_arguments
    from ibot_jax.weights.load import load

    with about_arguments(), quiet_libraries():
        return load(path, **options)


def pretrain(
    config: "Config",
    workdir: str,
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> "Run":
    """Trains a model and returns the run; see `python.pretrain`.

    run = ibot_jax.pretrain("vits16", "runs/mine", {"data.source": "folder:images"})
    model, params = run.load(step="best")
    """
    from ibot_jax.cli.quiet import quiet_libraries
    from ibot_jax.errors import about_arguments
    from ibot_jax.python import pretrain

    with about_arguments(), quiet_libraries():
        return pretrain(config, workdir, changes, **options)


def configs() -> list[str]:
    """Returns the names of the configs that come with the project, for `pretrain` and --config."""
    from ibot_jax.cli.config_file import config_names

    return config_names()
