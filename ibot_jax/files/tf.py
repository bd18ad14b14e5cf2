"""The one door through which tensorflow enters, on the CPU only."""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

_KERAS = "TF_USE_LEGACY_KERAS"


def import_tensorflow() -> ModuleType:
    """Imports tensorflow with every accelerator hidden from it: they belong to jax."""
    # Its banners would tear the progress bar; oneDNN, the subject of one, has nothing to do here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with _keras_left_for_later():
        import tensorflow as tf

    for kind in ("GPU", "TPU"):
        if tf.config.get_visible_devices(kind):
            tf.config.set_visible_devices([], kind)
    return tf


@contextlib.contextmanager
def _keras_left_for_later() -> Iterator[None]:
    """Lets tensorflow be imported without Keras, which nothing here needs: a third of the time.

    It imports Keras ahead, and with it scikit-learn, unless the old Keras is asked for, a package
    of its own. `tf.keras` asks again when it is first used.
    """
    given = os.environ.get(_KERAS)
    os.environ[_KERAS] = given or "1"
    try:
        yield
    finally:
        if given is None:
            del os.environ[_KERAS]
