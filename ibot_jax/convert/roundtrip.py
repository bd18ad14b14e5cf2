"""Converts files of other projects there and back, and compares features with timm's and others'.

    python -m ibot_jax.convert.roundtrip PATH [PATH ...] [--heads=N]

Needs timm, torch and transformers (extra `interop`). A Markdown table: whose names each file has,
and the largest difference between features here and those of what `convert` writes, loaded strictly
by timm and transformers, in float32 on random pixels: at the size that the model is for, and at one
that is not square.

Exit status: 0 if all that can be written gives the same features to 1e-5, else 1.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import contextlib
import dataclasses
import io
import os
import pathlib
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from ibot_jax.cli import exits
from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.cli.flags import positive
from ibot_jax.convert.__main__ import main as convert
from ibot_jax.errors import UserError
from ibot_jax.weights.load import load
from ibot_jax.weights.model import Model

TOLERANCE = 1e-5
_NO_POOLER = {"add_pooling_layer": False}
_MOST_PATCHES = 6  # along a side, where positions are rotary and any number will do
Compute = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a model in one library.

    Attributes:
      refused: why it cannot be written; "" if it can.
      differences: of features, at each size.
      resampled: whether the library says to resample positions otherwise, at the second size.
    """

    refused: str = ""
    differences: tuple[float, ...] = ()
    resampled: bool = False

    @property
    def same(self) -> bool:
        """Whether features are the same wherever they are to be."""
        return max(self.differences[: 1 if self.resampled else 2], default=0.0) <= TOLERANCE

    def __str__(self) -> str:
        words = ", ".join(f"{difference:.0e}" for difference in self.differences)
        return self.refused or words + (" (resampled otherwise)" if self.resampled else "")


def round_trip(
    source: str, folder: pathlib.Path, *arguments: str
) -> tuple[str, dict[str, Written]]:
    """Converts a model in, and out for each library.

    Args:
      source: as `convert` takes it.
      folder: to write to.
      *arguments: of `convert`, on what the file does not tell.

    Returns:
      Whose names it has; and by "timm" and "transformers" what became of it.

    Raises:
      UserError: if it cannot be read.
    """
    own = folder / "own.npz"
    said = _convert(source, str(own), "--to=npz", *arguments)
    model, params = load(str(own))
    rng = np.random.default_rng(0)
    sizes = _sizes(model)
    pixels = [rng.standard_normal((2, *size, model.config.data.channels), "f") for size in sizes]
    ours = [np.asarray(model.features(params, x, floats="normalized").sequence) for x in pixels]
    found = {}
    for to, library, read in (("timm", "timm", _timm), ("hf", "transformers", _transformers)):
        try:
            remarks = _convert(str(own), str(folder / to), f"--to={to}")
        except UserError as error:
            found[library] = Written(refused=str(error))
            continue
        theirs = [read(str(folder / to))(x.transpose(0, 3, 1, 2)) for x in pixels]
        differences = (float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
        found[library] = Written("", tuple(differences), "it resamples positions" in remarks)
    return said.partition("with names of ")[2].partition("\n")[0], found


def _convert(*arguments: str) -> str:
    """Runs `convert`; returns what it says."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = convert([*arguments, "--overwrite"])
    if status:
        raise UserError(err.getvalue().removeprefix("error: ").strip())
    return out.getvalue()


def _sizes(model: Model) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the size that a model is for, smaller if it may be, and one that is not square."""
    grid = model.geometry.grid(model.config.data.global_size)
    if model.config.model.positions == "rotary":
        grid = (min(grid[0], _MOST_PATCHES), min(grid[1], _MOST_PATCHES))
    return model.geometry.size(grid), model.geometry.size((grid[0] + 2, grid[1] - 1))


def _timm(folder: str) -> Compute:
    import timm
    import torch

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return lambda x: model.forward_features(torch.tensor(x)).detach().numpy()


def _transformers(folder: str) -> Compute:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options = {} if "dinov" in pathlib.Path(folder, "config.json").read_text() else _NO_POOLER
    model, told = transformers.AutoModel.from_pretrained(
        folder, output_loading_info=True, **options
    )
    if any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise UserError(f"transformers does not load {folder} strictly: {told}")
    model.eval()
    return lambda x: model(torch.tensor(x)).last_hidden_state.detach().numpy()


def main(argv: list[str] | None = None) -> int:
    """Converts what the command line names, and prints the table; returns the exit code."""
    jax.config.update("jax_platforms", "cpu")
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = OneLineParser(prog="python -m ibot_jax.convert.roundtrip", description=__doc__)
    parser.add_argument("sources", nargs="+", metavar="PATH", help="a file or folder of weights")
    parser.add_argument("--heads", type=positive, metavar="N", help="of those that do not tell")
    args = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched
    print("| file | names | timm | transformers |\n| --- | --- | --- | --- |")
    status = exits.COMPLETE
    for source in args.sources:
        folders = pathlib.Path(source).is_dir()
        arguments = [f"--heads={args.heads}"] if args.heads and not folders else []
        with tempfile.TemporaryDirectory() as folder:
            names, found = round_trip(source, pathlib.Path(folder), *arguments)
        cells = [f"`{pathlib.Path(source).name}`", names, *map(str, found.values())]
        print(f"| {' | '.join(cells)} |", flush=True)
        if not all(written.same for written in found.values()):
            status = exits.FAILED
    return status


if __name__ == "__main__":
    leave(main())
