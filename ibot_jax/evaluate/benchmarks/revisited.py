"""Revisited Oxford and Paris (Radenovic et al., arXiv 1803.11285): their files and their measures.

DATA/NAME/gnd_NAME.pkl   ground truth, as published
DATA/NAME/jpg/*.jpg      images

NAME is roxford5k or rparis6k.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import safe_pickle
from ibot_jax.evaluate.benchmarks.image_files import require_folder
from ibot_jax.evaluate.measures.average_precision import (
    average_precision,
    positive_ranks,
    precision_at,
)

KS = (1, 5, 10)
# What counts as found and what counts as nothing in each setup (section 3 of that paper).
SETUPS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


@dataclasses.dataclass(frozen=True)
class Query:
    """A query.

    Attributes:
      image: its file.
      box: left, top, right and bottom of what is asked for, in pixels.
      relevant: for "easy", "hard" and "junk", the indices of images in the database.
    """

    image: epath.Path
    box: tuple[float, float, float, float]
    relevant: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Queries and the images that they are looked up in."""

    queries: list[Query]
    database: list[epath.Path]


def read_benchmark(data: epath.Path, name: str) -> Benchmark:
    """Reads the ground truth and finds the images.

    Raises:
      UserError: if a file is absent or does not hold what it should.
    """
    folder = require_folder(data / name)
    file = folder / f"gnd_{name}.pkl"
    if not file.exists():
        raise UserError(f"{file} is absent: the ground truth, which its authors publish")
    content = safe_pickle.loads(file.read_bytes(), str(file))
    try:
        database = [_image(folder, image) for image in content["imlist"]]
        queries = [
            Query(
                image=_image(folder, image),
                box=tuple(float(side) for side in np.ravel(truth["bbx"])),
                relevant={
                    kind: np.asarray(truth[kind], np.int64).ravel()
                    for kind in ("easy", "hard", "junk")
                },
            )
            for image, truth in zip(content["qimlist"], content["gnd"], strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is no ground truth of the revisited benchmarks: it needs imlist, qimlist and "
            f"gnd, with easy, hard, junk and bbx for each query ({error!r})"
        ) from error
    _check(queries, database, file)
    return Benchmark(queries, database)


def measure(rankings: Sequence[np.ndarray], queries: Sequence[Query]) -> list[dict[str, Any]]:
    """Computes mean average precision, and mean precision at 1, 5 and 10, in each setup.

    A query without anything to find in a setup does not count there.

    Args:
      rankings: for each query, the indices of the whole database, best first.
      queries: the queries.

    Returns:
      For each setup {"setup", "queries" that count, "map", "mp@1", "mp@5", "mp@10"}, in percent;
      NaN where no query counts.
    """
    rows = []
    for setup, (found, ignored) in SETUPS.items():
        scores = []
        for ranking, query in zip(rankings, queries, strict=True):
            positives = np.concatenate([query.relevant[kind] for kind in found])
            junk = np.concatenate([query.relevant[kind] for kind in ignored])
            if len(positives):
                ranks = positive_ranks(ranking, positives, junk)
                precisions = [precision_at(ranks, k) for k in KS]
                scores.append([average_precision(ranks, len(positives)), *precisions])
        means = 100 * np.mean(scores, axis=0) if scores else [np.nan] * (1 + len(KS))
        names = ("map", *(f"mp@{k}" for k in KS))
        rows.append({"setup": setup, "queries": len(scores)})
        rows[-1] |= {name: float(mean) for name, mean in zip(names, means, strict=True)}
    return rows


def _image(folder: epath.Path, name: str) -> epath.Path:
    return folder / "jpg" / f"{name}.jpg"


def _check(queries: list[Query], database: list[epath.Path], file: epath.Path) -> None:
    """Finds images that are absent, and indices and boxes that cannot be, before any is read."""
    if not queries or not database:
        raise UserError(f"{file} names no queries or no images")
    for query in queries:
        indices = np.concatenate(list(query.relevant.values()))
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(database):
            raise UserError(
                f"{file}: {query.image.stem} refers to image number {indices.max()} of "
                f"{len(database)}"
            )
        if len(query.box) != 4 or query.box[0] >= query.box[2] or query.box[1] >= query.box[3]:
            raise UserError(f"{file}: {query.image.stem} has the box (bbx) {query.box}")
    folder = require_folder(database[0].parent)
    there = {path.name for path in folder.iterdir()}
    absent = [path for path in database + [q.image for q in queries] if path.name not in there]
    if absent:
        raise UserError(
            f"{absent[0]} is absent, and so are {len(absent) - 1} other images that {file.name} "
            "names; complete the folder"
        )
