"""The one door through which tensorflow enters, on the CPU only."""

import os
from types import ModuleType


def import_tensorflow() -> ModuleType:
    """Imports tensorflow with every accelerator hidden from it: they belong to jax."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its banner would tear the progress bar
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        if tf.config.get_visible_devices(kind):
            tf.config.set_visible_devices([], kind)
    return tf
