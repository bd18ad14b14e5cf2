"""iBOT: image BERT pre-training with an online tokenizer, in JAX (arXiv 2111.07832)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibot_jax.models.parameters import Params
    from ibot_jax.python import Config, Run
    from ibot_jax.weights.model import Model

__version__ = "0.1.0"


def load(
    path: str,
    *,
    weights: str = "teacher",
    step: str = "latest",
    head: bool | None = False,
    dtype: str = "float32",
) -> "tuple[Model, Params]":
    """Loads a model.

    Args:
      path: a run's workdir, or that of a fine-tuning; one folder of its checkpoints; or what
        `ibot_jax.export` or `ibot_jax.convert` wrote: a folder (orbax, checkpoint), a .npz or a
        .safetensors file. Local, or one that etils.epath reads (gs://...).
      weights: "teacher" or "student", of a run or a converted checkpoint; other exports have only
        one of them.
      step: "latest", "best" by k-NN, or a step in digits, of a run's workdir.
      head: whether the projection head, or of a fine-tuned model the classifier, is needed, too;
        None takes it where there is one.
      dtype: of the computation, "float32" or "bfloat16".

    Returns:
      The model, and its parameters {"backbone": ..., and by option "head": ...}, NumPy arrays; of
      a fine-tuned model "classifier" in place of the head, and "projection" if it has one.

    Raises:
      UserError: if there is no model at `path`, it lacks what is asked for, or its weights are not
        finite.
    """
    # Here, so that importing ibot_jax imports no jax.
    from ibot_jax.cli.quiet import quiet_libraries
    from ibot_jax.errors import about_arguments
    from ibot_jax.weights.load import load

    with about_arguments(), quiet_libraries():
        return load(path, weights=weights, step=step, head=head, dtype=dtype)


def pretrain(
    config: "Config",
    workdir: str,
    changes: Mapping[str, Any] | None = None,
    *,
    allow_config_change: bool = False,
) -> "Run":
    """Trains a model, or finishes the training that `workdir` holds, as `ibot_jax.main` does.

    For example::

        run = ibot_jax.pretrain("vits16", "runs/mine", {"data.source": "folder:images"})
        model, params = run.load(step="best")

    Args:
      config: the name of one that comes with the project, a file, or a config.
      workdir: where the run writes, and what it resumes.
      changes: of the config by key, {"data.source": "folder:images", "batch_size": 256}.
      allow_config_change: resume under a config that differs from the workdir's.

    Returns:
      The run; a signal ends it before its end, its state saved.

    Raises:
      UserError: for what the user can mend, before anything compiles.
      TrainingError: if the run cannot go on; its last good state is saved.
    """
    from ibot_jax.cli.quiet import quiet_libraries
    from ibot_jax.errors import about_arguments
    from ibot_jax.python import pretrain

    with about_arguments(), quiet_libraries():
        return pretrain(config, workdir, changes, allow_config_change=allow_config_change)


def configs() -> list[str]:
    """Returns the names of the configs that come with the project, for `pretrain` and --config."""
    from ibot_jax.cli.config_file import config_names

    return config_names()
