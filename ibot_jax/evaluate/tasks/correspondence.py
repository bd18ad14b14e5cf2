"""Correspondence: whether a patch is found again in another view of its image.

What it measures: how well patch tokens tell places apart, whatever the crop. Of each image two
views are cut, which show from a quarter to all of it, and one in two is mirrored. A patch of the
first view that the second view shows, too, is looked for among all patches of the second one: the
nearest by cosine should be the patch that holds its middle (exact), or at least one beside that
(near). Shares of the patches looked for, in percent, mean over the images. Nothing is trained, and
no label is read: a dense measure for images that have none.

Data: a folder PATH of images, with or without classes, digits, or TFDS.

    python -m ibot_jax.evaluate correspondence --from=runs/mine --data=folder:PATH
"""

import argparse
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.data.draw.crops import draw_crop
from ibot_jax.data.sources.readable import require_readable
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.extract import FeatureFn, extract, require_read
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model

_PAIRS = 64  # of views, which the rows of a batch take in turn
_SCALE, _ASPECT = (0.25, 1.0), (3 / 4, 4 / 3)
_SIDE = 10_000  # of the square on which boxes are drawn
_LARGER = 2  # images are so many times as large as views, whose crops are then not enlarged


class Windows(NamedTuple):
    """Where views lie in their square picture, whose sides count 1.

    Attributes:
      top, left, height, width: [...] float32.
      mirrored: [...] bool.
    """

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    mirrored: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser, splits=("train",))
    flags.add(parser.add_argument_group("views"), "--seed", help="of the crops")


def run(args: argparse.Namespace) -> Report:
    """Looks for the patches of all images.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh)
    source = opening.open_split(args, model, "train")
    views = opening.open_views(args, model, mesh)
    size = views.size
    with same_end():
        require_readable(source, views.decoding, purpose="the evaluation")
    larger = views.view.of_size((_LARGER * size[0], _LARGER * size[1]))
    pictures = dataclasses.replace(views, view=larger)
    find = make_finder(model, draw_windows(args.seed), size)
    batches = progress(pictures.batches(source), pictures.number(source), "images")
    (sought, exact, near), _ = extract(find, params, batches, mesh)
    require_read(source, len(sought), 1)
    of_image = sought > 0
    shares = {
        name: 100 * float(np.mean(found[of_image] / sought[of_image]))
        for name, found in (("exact", exact), ("near", near))
    }
    rows, columns = model.geometry.grid(size)
    counts = {"images": int(of_image.sum()), "chance": 100 / (rows * columns)}
    return Report("correspondence", opening.settings(args, model), shares, [shares | counts])


def draw_windows(seed: int) -> Windows:
    """Draws pairs of views, [64, 2]."""
    rng = np.random.default_rng(seed)
    boxes = [draw_crop(rng, _SIDE, _SIDE, _SCALE, _ASPECT) for _ in range(2 * _PAIRS)]
    sides = np.array(boxes, np.float32).reshape(_PAIRS, 2, 4) / _SIDE
    return Windows(*np.moveaxis(sides, -1, 0), mirrored=rng.random((_PAIRS, 2)) < 0.5)


def make_finder(model: Model, windows: Windows, size: tuple[int, int]) -> FeatureFn:
    """Returns the function from (params, images [B, H, W, C] uint8) to what was found, [B] each.

    That is how many patches of the first view were looked for in the second, of how many the patch
    itself was nearest, and of how many it or one beside it, float32.

    Args:
      model: whose tokens are compared.
      windows: pairs of views, [P, 2], of which row r of a batch takes the pair r % P.
      size: height and width of the views.
    """

    def find(params, images):
        pairs = jax.tree.map(
            lambda x: jnp.asarray(x)[jnp.arange(len(images)) % len(x)], windows
        )  # [B, 2]
        of_view = [jax.tree.map(lambda x, i=i: x[:, i], pairs) for i in range(2)]
        grids = [model.features(params, cut(images, view, size)).patches for view in of_view]
        return jax.vmap(count_found)(*grids, *of_view)

    return find


def cut(images: jax.Array, windows: Windows, size: tuple[int, int]) -> jax.Array:
    """Cuts a view out of each image, bicubic and antialiased.

    Args:
      images: [B, H, W, C] uint8.
      windows: where, [B].
      size: height and width of the views, h and w.

    Returns:
      [B, h, w, C] uint8.
    """

    def one(image, window):
        of_view = jnp.array([window.height, window.width]) * jnp.array(image.shape[:2])
        scale = jnp.array(size) / of_view
        start = jnp.array([window.top, window.left]) * jnp.array(image.shape[:2])
        view = jax.image.scale_and_translate(
            image.astype(jnp.float32),
            (*size, image.shape[-1]),
            (0, 1),
            scale,
            -start * scale,
            method="cubic",
        )
        return jnp.where(window.mirrored, view[:, ::-1], view)

    return jax.vmap(one)(images, windows).round().clip(0, 255).astype(jnp.uint8)


def count_found(
    first: jax.Array, second: jax.Array, seen: Windows, searched: Windows
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Looks for the patches of one view in another one of the same image.

    Args:
      first: tokens [h, w, D].
      second: tokens of the other view, [h, w, D].
      seen: where the first view lies, scalars.
      searched: where the second one does.

    Returns:
      How many patches the second view shows, and how many were found there: exactly, and nearly.
    """
    rows, columns, _ = first.shape
    middles = (jnp.stack(jnp.indices((rows, columns)), axis=-1) + 0.5).reshape(-1, 2)
    grid = jnp.array([rows, columns])
    # A view's patch [y, x], to the picture, to the other view's patch.
    there = jnp.floor(_into(_out_of(middles / grid, seen), searched) * grid)
    shown = ((there >= 0) & (there < grid)).all(axis=1)
    unit = [
        tokens.reshape(rows * columns, -1) / jnp.linalg.norm(tokens, axis=-1).reshape(-1, 1)
        for tokens in (first, second)
    ]
    nearest = (unit[0] @ unit[1].T).argmax(axis=1)
    found = jnp.stack(jnp.divmod(nearest, columns), axis=-1)
    off = jnp.abs(found - there).max(axis=1)
    counted = shown, shown & (off == 0), shown & (off <= 1)
    return tuple(kind.sum().astype(jnp.float32) for kind in counted)


def _out_of(points: jax.Array, window: Windows) -> jax.Array:
    """Returns where points (y, x) of a view, whose sides count 1, are in the picture."""
    y, x = points[:, 0], points[:, 1]
    x = jnp.where(window.mirrored, 1 - x, x)
    return jnp.stack([window.top + y * window.height, window.left + x * window.width], axis=-1)


def _into(points: jax.Array, window: Windows) -> jax.Array:
    """Returns where points (y, x) of the picture are in a view, whose sides count 1."""
    y = (points[:, 0] - window.top) / window.height
    x = (points[:, 1] - window.left) / window.width
    return jnp.stack([y, jnp.where(window.mirrored, 1 - x, x)], axis=-1)
