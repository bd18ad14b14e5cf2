"""Video object segmentation by label propagation: DAVIS-2017, J and F.

What it measures: whether patch tokens tell the parts of a scene apart. The objects of a video's
first frame are followed without any training: each patch takes the labels of the most similar
patches near its place, in the first frame and in the last few. As in the original (paper, appendix)
and in DINO: patch tokens of the last block, shorter side 480 pixels, longer side a multiple of 64.
J, F, their recall and decay are those of DAVIS's evaluation: means over objects, without the first
and the last frame. --protocol=dinov3 is that of DINOv3's notebook: sides are rounded up to whole
patches, frames resized bicubically, patches looked for in a circle, T is 0.2, and a patch has one
label; its paper gives frames --size=480, 960 and 1440 with patches of 16, 420, 840 and 1260 of 14.

Data: DAVIS-2017 at 480p: DATA/ImageSets/2017/SPLIT.txt (names of videos),
DATA/JPEGImages/480p/VIDEO/*.jpg, DATA/Annotations/480p/VIDEO/*.png for each frame.

    python -m ibot_jax.evaluate davis --from=runs/mine --data=DATA
"""

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.davis_data import (
    Video,
    find_videos,
    read_objects,
    write_prediction,
)
from ibot_jax.evaluate.benchmarks.image_files import ahead, read_image
from ibot_jax.evaluate.common.opening import open_model, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.measures import propagation
from ibot_jax.evaluate.measures.video_measures import boundary_f, jaccard, statistics
from ibot_jax.files.paths import absolute_path, require_writable
from ibot_jax.models.geometry import Geometry
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.processes import is_first
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model

PROTOCOLS = ("dino", "dinov3")
_SIDE_MULTIPLE = 64
_TEMPERATURES = {"dino": 0.1, "dinov3": 0.2}

# (params, frame [H, W, C] uint8) -> features [h, w, D]
DenseFn = Callable[[Any, jax.Array], jax.Array]
# (frames, objects of the first) -> objects of the others
Follow = Callable[[Iterable[np.ndarray], np.ndarray], Iterator[np.ndarray]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="the folder with ImageSets in it")
    group.add_argument("--split", default="val", help="SPLIT (default: val)")
    flags.add(group, "--size", nargs=None, default=480, help="shorter side of the frames")
    group.add_argument(
        "--predictions", metavar="DIR", help="write DIR/VIDEO/*.png, as DAVIS's evaluation reads it"
    )
    group = parser.add_argument_group("propagation")
    group.add_argument(
        "--protocol", default="dino", choices=PROTOCOLS, help="see above (default: dino)"
    )
    flags.add_number(group, "--last-frames", 7, "frames looked at, besides the first")
    flags.add_number(group, "--radius", 12, "how far patches are looked for, in patches")
    flags.add_number(group, "--top-k", 5, "how many patches give their labels")
    group.add_argument(
        "--temperature",
        type=flags.above_zero,
        metavar="T",
        help="of their weights exp(cosine / T) (default: 0.1, of dinov3 0.2)",
    )


def run(args: argparse.Namespace) -> Report:
    """Segments and measures every video.

    Raises:
      UserError: for what the user can mend.
    """
    with same_end():
        videos = find_videos(absolute_path(args.data), args.split)
    # Each frame needs the one before: one device works.
    model, params = open_model(args, make_mesh(jax.local_devices()[:1]))
    args.temperature = args.temperature or _TEMPERATURES[args.protocol]
    follow = make_follow(
        make_dense_fn(model, args.size, args.protocol),
        params,
        model.geometry,
        last_frames=args.last_frames,
        radius=args.radius,
        top_k=args.top_k,
        temperature=args.temperature,
        protocol=args.protocol,
    )
    folder = absolute_path(args.predictions) if args.predictions else None
    with same_end():
        if folder:
            require_writable(folder, "--predictions")
    rows, scores = [], []
    with same_end():
        for video in progress(videos, len(videos), "videos"):
            of_video = measure(follow, video, Decoding.of(model.config.data), folder)
            rows.append({"video": video.name, "frames": len(video.frames), **_summary(of_video)})
            scores += of_video
    rows.append({"video": "all", "frames": sum(row["frames"] for row in rows), **_summary(scores)})
    metrics = {name: value for name, value in rows[-1].items() if isinstance(value, float)}
    return Report("davis", settings(args, model), metrics, rows)


def make_dense_fn(model: Model, size: int, protocol: str = "dino") -> DenseFn:
    """Returns the function from (params, frame) to the patch tokens of the last block.

    Args:
      model: whose tokens.
      size: shorter side of what it sees, pixels.
      protocol: one of `PROTOCOLS`.
    """
    filters = {"dino": dict(method="linear", antialias=False), "dinov3": dict(method="cubic")}

    def dense(params, frame):
        height, width = working_size(*frame.shape[:2], size, model.geometry, protocol)
        shape = (height, width, frame.shape[2])
        frame = jax.image.resize(frame.astype(jnp.float32), shape, **filters[protocol])
        frame = jnp.round(frame).clip(0, 255).astype(jnp.uint8)
        return model.features(params, frame[None]).patches[0]

    return dense


def make_follow(
    dense_fn: DenseFn,
    params: Any,
    geometry: Geometry,
    *,
    last_frames: int,
    radius: int,
    top_k: int,
    temperature: float,
    protocol: str = "dino",
) -> Follow:
    """Returns the function that follows the objects of a video's first frame.

    Args:
      dense_fn: the features of patches; compiled once for each size of frames.
      params: its parameters.
      geometry: of the patches.
      last_frames: see `propagation.remember_first`.
      radius: see `propagation.propagate`, as top_k and temperature.
      top_k: how many patches count.
      temperature: of the weights.
      protocol: one of `PROTOCOLS`.

    Returns:
      A function of frames [H, W, C] uint8 and the objects [H, W] uint8 of the first one, which
      yields those of the other frames, [H, W] uint8 each.
    """
    enlarge = _patch_by_patch if protocol == "dinov3" else _nearest

    @jax.jit
    def start(params, frame, labels):
        return propagation.remember_first(dense_fn(params, frame), labels, last_frames)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params, memory, frame):
        features = dense_fn(params, frame)
        labels = propagation.propagate(
            memory,
            features,
            radius=radius,
            top_k=top_k,
            temperature=temperature,
            circle=protocol == "dinov3",
        )
        memory = propagation.remember(memory, features, labels)
        grid = labels.shape[:2]
        size = grid if protocol == "dinov3" else geometry.size(grid)
        return memory, propagation.decide(labels, size)

    def follow(frames, first):
        frames = iter(frames)
        frame = next(frames)
        rows, columns, _ = jax.eval_shape(dense_fn, params, frame).shape
        labels = jax.nn.one_hot(_nearest(first, rows, columns), int(first.max()) + 1)
        memory = start(params, frame, labels)
        pending = None
        for frame in frames:
            memory, objects = step(params, memory, frame)
            if pending is not None:  # fetched while the device works on the next frame
                yield enlarge(np.asarray(pending), *first.shape)
            pending = objects
        yield enlarge(np.asarray(pending), *first.shape)

    return follow


def measure(
    follow: Follow, video: Video, decoding: Decoding, folder: epath.Path | None = None
) -> list[dict[str, float]]:
    """Follows the objects of a video and measures how well, object by object.

    Args:
      follow: as of `make_follow`.
      video: the video.
      decoding: how its frames become pixels.
      folder: where predictions are written, if they are.

    Returns:
      For each object, in percent: j_mean, j_recall, j_decay, and the same of F.

    Raises:
      UserError: if a file cannot be read, has another size than the first, or shows no object.
    """
    first = read_objects(video.annotations[0])
    if not first.any():
        raise UserError(f"{video.annotations[0]} shows no object to follow")
    same_size = functools.partial(_require_size, shape=first.shape)
    frames = ahead(lambda path: same_size(read_image(path, decoding), path=path), video.frames)
    truths = ahead(lambda path: same_size(read_objects(path), path=path), video.annotations[1:])
    if folder is not None and is_first():
        write_prediction(folder, video, 0, first)
    last = len(video.frames) - 1
    scores = np.zeros((first.max(), 2, last - 1))  # objects, J and F, frames that count
    for number, (found, truth) in enumerate(zip(follow(frames, first), truths, strict=True), 1):
        if folder is not None and is_first():
            write_prediction(folder, video, number, found)
        for index in range(len(scores) if number < last else 0):
            masks = found == index + 1, truth == index + 1
            scores[index, :, number - 1] = jaccard(*masks), boundary_f(*masks)
    return [
        {
            f"{name}_{kind}": 100 * value
            for name, values in zip("jf", of_object, strict=True)
            for kind, value in zip(("mean", "recall", "decay"), statistics(values), strict=True)
        }
        for of_object in scores
    ]


def _summary(scores: list[dict[str, float]]) -> dict[str, Any]:
    """Returns the means over objects."""
    means = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
    both = (means["j_mean"] + means["f_mean"]) / 2
    return {"objects": len(scores), "jf_mean": both, **means}


def working_size(
    height: int, width: int, size: int, geometry: Geometry, protocol: str = "dino"
) -> tuple[int, int]:
    """Returns the height and width that frames are given: of dino, cut to whole patches.

    Of dinov3 both are rounded up to whole patches, the longer one in proportion to the shorter.
    """
    if protocol == "dinov3":
        shorter = size + geometry.missing((size, size))[0]
        wanted = [-(-side * shorter // min(height, width)) for side in (height, width)]
        missing = geometry.missing((wanted[0], wanted[1]))
        return wanted[0] + missing[0], wanted[1] + missing[1]

    def longer(side, other):
        return size * side // other // _SIDE_MULTIPLE * _SIDE_MULTIPLE

    sides = (longer(height, width), size) if height > width else (size, longer(width, height))
    sides = geometry.whole(sides)
    if not min(sides):
        raise UserError(
            f"--size={size} leaves nothing of frames of {height}x{width} pixels, for the longer "
            f"side becomes a multiple of {_SIDE_MULTIPLE} and the shorter one of {geometry.stride}"
        )
    return sides


def _patch_by_patch(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarges labels as PyTorch's "nearest" does, to which a pixel's edge belongs."""
    rows, columns = (
        np.arange(side) * cells // side
        for side, cells in zip((height, width), labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def _nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)


def _require_size(pixels: np.ndarray, *, path: epath.Path, shape: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] != shape:
        raise UserError(
            f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but the first annotation of "
            f"its video {shape[0]}x{shape[1]}"
        )
    return pixels
