"""Scalars and pictures for TensorBoard, written in the background."""

import concurrent.futures
import contextlib
import io
import socket
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath
from PIL import Image

from ibot_jax.errors import TrainingError, in_words
from ibot_jax.files import atomic
from ibot_jax.files.tf import import_tensorflow


class TensorBoard:
    """A folder of event files, open for writing; errors are kept for `check`."""

    def __init__(self, folder: epath.Path, *, purge_from: int | None = None):
        """Opens it; what is there of the step `purge_from` and later ones is removed."""
        tf = import_tensorflow()  # here, for that takes seconds; it writes to buckets
        self._folder = folder
        self._error: Exception | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1)  # a bucket may be slow
        if purge_from is not None:
            with self._error_kept():
                _purge(tf, folder, purge_from)
        # TensorBoard reads files by name, so that what is written later has to have a later one.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        with self._error_kept():
            folder.mkdir(parents=True, exist_ok=True)
        self._file = tf.io.TFRecordWriter(str(folder / name))
        self._event, self._summary = tf.compat.v1.Event, tf.compat.v1.Summary
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hands over what belongs to a step."""
        values = [
            self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()
        ]
        summary = self._summary(value=values)
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Hands over a picture that belongs to a step."""
        file = io.BytesIO()
        picture.save(file, "png")
        image = self._summary.Image(
            height=picture.height,
            width=picture.width,
            colorspace=3,  # RGB
            encoded_image_string=file.getvalue(),
        )
        summary = self._summary(value=[self._summary.Value(tag=name, image=image)])
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Makes sure that all is written."""
        self._in_thread(self._file.flush).result()

    def check(self) -> None:
        """Raises a TrainingError if something could not be written."""
        if self._error is not None:
            raise TrainingError(f"{self._folder} cannot be written ({in_words(self._error)})")

    def close(self) -> None:
        """Writes all and closes the files."""
        self._in_thread(self._file.close)
        self._thread.shutdown()

    def _write(self, event: Any) -> None:
        self._in_thread(self._file.write, event.SerializeToString())

    def _in_thread(self, function: Callable, *args: bytes) -> concurrent.futures.Future:
        def run() -> None:
            with self._error_kept():
                function(*args)

        return self._thread.submit(run)

    @contextlib.contextmanager
    def _error_kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of TensorFlow, which has kinds of its own
            self._error = self._error or error


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
