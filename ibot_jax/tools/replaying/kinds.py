"""All kinds of recordings: which one a file is of."""

from ibot_jax.errors import UserError
from ibot_jax.tools.replaying import (
    color_ops,
    forward,
    heir_blocks,
    heir_losses,
    heir_runs,
    heir_tables,
    heirs,
    neighbours,
    training,
)
from ibot_jax.tools.replaying.recording import Kind, Recording

KINDS = (training.KIND, forward.KIND, heirs.KIND, heirs.LAYOUTS)
KINDS += (heir_runs.KIND, heir_losses.KIND, heir_losses.PROCESSES)
KINDS += (heir_blocks.KIND, heir_tables.KIND)
KINDS += (neighbours.KIND, color_ops.KIND)

# What else is recorded of this field's programs, by what the names of its arrays begin with.
_NOT_YET = {
    "crop/": "statistics of drawn crops and masks",
    "dinov2/grid=": "statistics of masks of DINOv2 and DINOv3",
    "seghead/": "dense evaluation of DINOv2 and DINOv3",
}


def kind_of(recording: Recording) -> Kind:
    """Returns the kind of a recording.

    Raises:
      UserError: if it is none, or of none that is there yet.
    """
    for kind in KINDS:
        if kind.takes(recording):
            return kind
    settings = recording.settings
    if "recipe" in settings:
        raise recording.problem(f"the method {settings['recipe']} is not there yet")
    raise _unknown(recording)


def _unknown(recording: Recording) -> UserError:
    for prefix, title in _NOT_YET.items():
        if recording.has(prefix):
            return recording.problem(f"{title} are not there yet")
    return recording.problem("no recording of a known kind")
