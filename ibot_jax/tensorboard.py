"""Scalars for TensorBoard, written in the background."""

import contextlib
from collections.abc import Iterator, Mapping

from etils import epath

from ibot_jax.data.tf import import_tensorflow
from ibot_jax.errors import TrainingError, in_words


class TensorBoard:
    """A folder of event files, open for writing; errors are kept for `check`."""

    def __init__(self, folder: epath.Path):
        # Here, for clu imports tensorflow, which takes seconds.
        import_tensorflow()
        from clu import metric_writers

        self._folder = folder
        self._error: Exception | None = None
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
