"""Scalars for TensorBoard, written in the background."""

import contextlib
import types
from collections.abc import Iterator, Mapping

from etils import epath

from ibot_jax.errors import TrainingError, in_words
from ibot_jax.files import atomic
from ibot_jax.files.tf import import_tensorflow


class TensorBoard:
    """A folder of event files, open for writing; errors are kept for `check`."""

    def __init__(self, folder: epath.Path, *, purge_from: int | None = None):
        """Opens it; what is there of the step `purge_from` and later ones is removed."""
        # Here, for clu imports tensorflow, which takes seconds.
        tf = import_tensorflow()
        from clu import metric_writers

        self._folder = folder
        self._error: Exception | None = None
        if purge_from is not None:
            with self._error_kept():
                _purge(tf, folder, purge_from)
        self._writer = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(folder)))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hands over what belongs to a step."""
        with self._error_kept():
            self._writer.write_scalars(step, scalars)

    def flush(self) -> None:
        """Makes sure that all is written."""
        with self._error_kept():
            self._writer.flush()

    def check(self) -> None:
        """Raises a TrainingError if something could not be written."""
        if self._error is not None:
            raise TrainingError(f"{self._folder} cannot be written ({in_words(self._error)})")

    def close(self) -> None:
        """Writes all and closes the files."""
        with self._error_kept():
            self._writer.close()

    @contextlib.contextmanager
    def _error_kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # clu passes on whatever its thread met
            self._error = error.__cause__ or error


def _purge(tf: types.ModuleType, folder: epath.Path, step: int) -> None:
    """Takes scalars of this step and later ones out of the files of a folder.

    What a kill cut short, at the end of a file, goes as well.
    """
    for path in folder.iterdir() if folder.exists() else ():
        if "tfevents" not in path.name:
            continue
        with atomic.temporary(folder / "kept") as kept:  # a name that TensorBoard passes over
            if _copy_before(tf, path, kept, step):
                kept.replace(path)
            else:
                kept.unlink()


def _copy_before(tf: types.ModuleType, path: epath.Path, kept: epath.Path, step: int) -> bool:
    """Copies what belongs to earlier steps; returns whether anything was left out."""
    changed = False
    with tf.io.TFRecordWriter(str(kept)) as file, contextlib.suppress(StopIteration):
        records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        while True:
            try:
                record = next(records)
            except tf.errors.DataLossError:
                changed = True
                break
            event = tf.compat.v1.Event.FromString(record)
            if event.HasField("summary") and event.step >= step:
                changed = True
            else:
                file.write(record)
    return changed
