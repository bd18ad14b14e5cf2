"""The one door through which tensorflow enters, on the CPU only."""

import os
from types import ModuleType


def import_tensorflow() -> ModuleType:
    """Imports tensorflow with every accelerator hidden from it: they belong to jax."""
    # Its banners would tear the progress bar; oneDNN, the subject of one, has nothing to do here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        if tf.config.get_visible_devices(kind):
            tf.config.set_visible_devices([], kind)
    return tf
