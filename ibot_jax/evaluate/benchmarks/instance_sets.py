"""Met (arXiv 2202.01747) and AmsterTime (arXiv 2203.16291), each as its archives have it.

DATA/met/ground_truth/MET_database.json   [{"id": 34, "path": "MET/34/0.jpg"}, ...]
DATA/met/ground_truth/testset.json        [{"MET_id": 34, "path": "test_met/...jpg"}, ...]; without
                      valset.json         MET_id where an image shows nothing of the museum
DATA/met/images/MET/34/0.jpg   images/test_met/*.jpg   images/test_other/*   images/test_noart/*

DATA/amstertime/new/0000.png   old/0000.jpg   the same place now and long ago
"""

import json
from collections.abc import Callable

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.examples import Examples, require_files
from ibot_jax.evaluate.benchmarks.image_files import list_images

_LOOKED_FOR = 1000  # images of a list; the museum's lie in 224,408 folders
PAGES = {"met": "cmp.felk.cvut.cz/met", "amstertime": "doi.org/10.4121/19580806"}


def read_met(data: epath.Path, mini: bool = False) -> tuple[Examples, Examples, Examples]:
    """Reads the images of the museum, and the queries to tune and to test with.

    Their targets are the ids of what they show, -1 for nothing of the museum.

    Args:
      data: the folder of met/.
      mini: takes mini_MET_database.json, a tenth of the images.

    Raises:
      UserError: if a file is absent, or does not hold what it should.
    """
    root = data / "met"

    def part(name: str, file: str, key: str) -> Examples:
        entries = json.loads((root / f"ground_truth/{file}").read_text())
        images = [root / "images" / entry["path"] for entry in entries]
        require_files(images[:_LOOKED_FOR])
        ids = np.array([int(entry.get(key, -1)) for entry in entries], np.int32)
        return Examples(f"met {name}", root, images, ids, ())

    def read():
        database = part("database", f"{'mini_' * mini}MET_database.json", "id")
        queries = part("val", "valset.json", "MET_id"), part("test", "testset.json", "MET_id")
        for split in (database, *queries):
            if not (split.targets >= 0).any():
                raise ValueError(f"{split.name} shows nothing of the museum")
        return database, *queries

    return _told(
        read,
        root,
        "met",
        "ground_truth/{MET_database,valset,testset}.json, images/MET, images/test_*",
    )


def read_amstertime(data: epath.Path) -> tuple[Examples, Examples]:
    """Reads the new and the old images, in the order of their places.

    Raises:
      UserError: if one has no counterpart.
    """
    root = data / "amstertime"

    def read():
        sides = [{path.stem: path for path in list_images(root / side)} for side in ("new", "old")]
        if odd := sorted(sides[0].keys() ^ sides[1].keys()):
            raise ValueError(f"{odd[0]} is new or old alone")
        names = sorted(sides[0])
        none = np.full(len(names), -1, np.int32)
        return tuple(
            Examples(f"amstertime {side}", root, [paths[name] for name in names], none, ())
            for side, paths in zip(("new", "old"), sides, strict=True)
        )

    return _told(read, root, "amstertime", "new/0000.png, old/0000.jpg and others")


def _told(read: Callable, root: epath.Path, name: str, files: str):
    """Returns what a function reads; what is absent or odd is a UserError with the page."""
    remedy = f"{name} is {root} with {files}: {PAGES[name]}"
    try:
        return read()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or root} is absent; {remedy}") from error
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{root} does not hold what it should ({error!r}); {remedy}") from error
