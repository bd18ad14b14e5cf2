"""Robustness: occlusion, shuffling, ImageNet-A, -R, -Sketch, -V2, -ReaL, -C and -9, and ObjectNet.

What it measures: how much accuracy is left when images are disturbed, or of another kind than those
that were learned. The classifier is fitted to the undisturbed training split and never to what it
is measured on: weighted k-NN on class tokens, or --classifier=linear, logistic regression. (The
papers train a linear layer on augmented images; saliency is from one fixed model there.)

  occlusion: a share of the patches of test images is blanked with the mean colour: random ones,
    or first the most or the least salient ones, by the class token's attention in the model's own
    last block, mean over heads (Naseer et al., arXiv 2105.10497)
  shuffling: test images are cut into grid x grid tiles, which change places
  --imagenet-a, --imagenet-r: accuracy among the classes that its folder lists (arXiv 1907.07174,
    2006.16241)
  --imagenet-sketch, --imagenet-v2: accuracy (arXiv 1905.13549, 1902.10811)
  --imagenet-real: the share of test images of which a class is found that they show (2006.07159)
  --imagenet-c: mCE, errors relative to AlexNet's (arXiv 1903.12261)
  --imagenet-9: accuracy of nine superclasses on other backgrounds, and the gap between mixed_same
    and mixed_rand (arXiv 2006.09994)
  --objectnet: accuracy on the objects that are classes of ImageNet, without the images' border

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS. The others by option, with class
folders named as those of the training split: --imagenet-a=DIR (-r, -sketch): DIR/CLASS/*;
--imagenet-v2=DIR: DIR/NUMBER/*; --imagenet-real=real.json; --imagenet-c=DIR:
DIR/CORRUPTION/SEVERITY/CLASS/*; --imagenet-9=DIR: DIR/VARIANT/val/SUPERCLASS/*; --objectnet=DIR:
DIR/images/*, DIR/mappings/*.

    python -m ibot_jax.evaluate robustness --from=runs/mine --data=folder:PATH --test-split=val
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import imagenet_variants
from ibot_jax.evaluate.benchmarks.corruptions import mean_corruption_error
from ibot_jax.evaluate.benchmarks.imagenet_variants import Variant
from ibot_jax.evaluate.benchmarks.objectnet import open_objectnet
from ibot_jax.evaluate.benchmarks.real_labels import read_real
from ibot_jax.evaluate.benchmarks.robustness_curves import fitting_grids, make_curve_fn, make_points
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache, Features
from ibot_jax.evaluate.features.extract import extract_batches
from ibot_jax.evaluate.probes.frozen_classifiers import Linear, Neighbours
from ibot_jax.evaluate.probes.softmax_regression import fit
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import busy, progress

_QUERIES = 2**17  # features that are classified together
_AMONG_THEIRS = ("imagenet_a", "imagenet_r")  # where only the classes of the folder are answered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser)
    flags.add(parser, "--cache")
    group = parser.add_argument_group("classifier")
    group.add_argument(
        "--classifier",
        default="knn",
        choices=("knn", "linear"),
        help="linear is logistic regression (default: knn)",
    )
    flags.add_number(group, "--k", 20, "neighbours")
    flags.add_number(
        group, "--temperature", 0.07, "of their votes", kind=flags.above_zero, metavar="T"
    )
    flags.add_number(group, "--l2", 1e-6, "penalty of linear", kind=flags.above_zero, metavar="X")
    flags.add_number(group, "--max-steps", 1000, "of its solver")
    group = parser.add_argument_group("disturbances")
    group.add_argument(
        "--drop-ratios",
        default=tuple(tenth / 10 for tenth in range(10)),
        type=flags.sequence(flags.share),
        metavar="SHARE,...",
        help="shares of patches that are blanked (default: 0,0.1,...,0.9)",
    )
    group.add_argument(
        "--grids",
        type=flags.sequence(flags.positive),
        metavar="N,...",
        help="tiles along a side (default: those of 1,2,4,7,8,14,16 that divide the image, with "
        "tiles no smaller than a patch)",
    )
    group.add_argument("--no-curves", action="store_true", help="leave out occlusion and shuffling")
    flags.add(group, "--seed", help="of both")
    for name in ("A", "R", "Sketch", "V2", "C", "9"):
        group.add_argument(
            f"--imagenet-{name.lower()}", metavar="DIR", help=f"folder of ImageNet-{name}"
        )
    group.add_argument("--objectnet", metavar="DIR", help="folder of ObjectNet")
    group.add_argument(
        "--imagenet-real", metavar="FILE", help="real.json, of ImageNet's validation images"
    )
    group.add_argument(
        "--in9-map", metavar="FILE", help="ImageNet-9's in_to_in9.json, for 1,000 training classes"
    )


def run(args: argparse.Namespace) -> Report:
    """Measures accuracy under all disturbances that are asked for.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh)
    train, test, shared = opening.open_labelled(args, model)
    views = opening.open_views(args, model, mesh)
    needed = args.k if args.classifier == "knn" else 1
    if needed > len(train):
        raise UserError(f"--k={args.k} is larger than the {len(train):,} training images; lower it")
    with same_end():
        variants, c, nine = _open_benchmarks(args, train)
        shown = args.imagenet_real and _read_real(args.imagenet_real, test)
        curve_fn = None
        if not args.no_curves:
            grids = args.grids or fitting_grids(model, views.size)
            curve_fn = make_curve_fn(model, views.size, args.drop_ratios, grids, args.seed)
    cache = FeatureCache(args.cache, model, params, mesh)
    bank = cache(train, views, "train", needed=needed, purpose=f"--k={needed}")
    classify = _fitted(args, bank, train.num_classes, mesh)
    everything = np.ones(train.num_classes, bool)

    def class_token(params, images):
        return model.features(params, model.whole_patches(images)).cls[:, None]

    def measure(source, what, feature_fn=class_token, allowed=everything):
        batches = extract_batches(feature_fn, params, views.batches(source), mesh)
        batches = progress(batches, views.number(source), what)
        return classified(classify, batches, allowed)

    def measure_variant(variant, what, restrict=False):
        known = variant.translation >= 0
        found = measure(variant.source, what, allowed=known if restrict else everything)
        return float(found.accuracies(variant.translation)[0])

    most = args.max_test_per_class

    def open_c(folder):
        with same_end():
            return imagenet_variants.open_by_name(folder, "--imagenet-c", train.class_names, most)

    rows, metrics, curves = [], {}, {}

    def add(name, setting, top1):
        rows.append({"test": name, "setting": setting, "top1": top1})

    if curve_fn is not None:
        points = make_points(args.drop_ratios, grids)
        found = measure(test, "curves", curve_fn).accuracies(np.arange(train.num_classes))
        for point, top1 in zip(points, map(float, found), strict=True):
            add(point.curve, point.x, top1)
            curves.setdefault(point.curve, []).append((point.x, top1))
        metrics = {name: float(np.mean([y for _, y in curve])) for name, curve in curves.items()}
    for name, variant in variants.items():
        metrics[name] = measure_variant(variant, name, restrict=name in _AMONG_THEIRS)
        add(name, f"{np.count_nonzero(variant.translation >= 0)} classes", metrics[name])
    if shown is not None:
        found = measure(test, "imagenet_real")
        counts = shown[found.places].any(axis=1)
        hits = shown[found.places, found.classes[:, 0]]
        metrics["imagenet_real"] = 100 * float(hits[counts].mean())
        add("imagenet_real", f"{counts.sum()} images", metrics["imagenet_real"])
    if c:
        top1 = {
            name: [measure_variant(open_c(folder), f"ImageNet-C {name}") for folder in folders]
            for name, folders in c.items()
        }
        for name, values in top1.items():
            add("imagenet_c", name, float(np.mean(values)))
        metrics["imagenet_c_mce"] = mean_corruption_error(top1)
    if nine:
        top1 = {name: measure_variant(found, f"ImageNet-9 {name}") for name, found in nine.items()}
        for name, value in top1.items():
            add("imagenet_9", name, value)
            metrics[f"imagenet_9_{name}"] = value
        metrics["imagenet_9_gap"] = imagenet_variants.background_gap(top1)
    settings = opening.settings(args, model)
    return Report("robustness", settings, metrics, rows, curves, shared.count)


@dataclasses.dataclass(frozen=True)
class Classified:
    """What a classifier says of images.

    Attributes:
      classes: [M, P] int, of each of the P features that an image has.
      labels: [M] int.
      places: [M] int, of the images in their split.
    """

    classes: np.ndarray
    labels: np.ndarray
    places: np.ndarray

    def accuracies(self, translation: np.ndarray) -> np.ndarray:
        """Returns the accuracy of each of the P features in percent, [P].

        Args:
          translation: [C], the label for each class of the training split, -1 for none.
        """
        return 100 * (translation[self.classes] == self.labels[:, None]).mean(axis=0)


def classified(
    classify: Callable[[np.ndarray, np.ndarray], np.ndarray],
    batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    allowed: np.ndarray,
) -> Classified:
    """Classifies images, many features at a time.

    Args:
      classify: a function of `probes.frozen_classifiers`.
      batches: features [B, P, D], labels [B] and valid [B].
      allowed: [C] bool, the classes that may be answered.

    Raises:
      UserError: if no image can be read.
    """
    valid, labels, classes = [], [], []

    def noted():
        for features, batch_labels, batch_valid in batches:
            valid.append(batch_valid)
            labels.append(batch_labels[batch_valid])
            yield features[batch_valid]

    for features in _gathered(noted(), _QUERIES):
        flat = features.reshape(-1, features.shape[-1])
        classes.append(classify(flat, allowed).reshape(features.shape[:2]))
    places = np.flatnonzero(np.concatenate(valid))
    if not len(places):
        raise UserError("none of the images can be read")
    return Classified(np.concatenate(classes), np.concatenate(labels), places)


def _gathered(batches: Iterable[np.ndarray], number: int) -> Iterator[np.ndarray]:
    """Yields the features [b, P, D] of batches, about `number` of them at a time."""
    parts, count = [], 0
    for features in batches:
        parts.append(features)
        count += features.shape[0] * features.shape[1]
        if count >= number:
            yield np.concatenate(parts)
            parts, count = [], 0
    if count:
        yield np.concatenate(parts)


def _fitted(
    args: argparse.Namespace, bank: Features, num_classes: int, mesh: jax.sharding.Mesh
) -> Neighbours | Linear:
    """Returns the classifier that --classifier names, of the training split's features."""
    if args.classifier == "knn":
        return Neighbours(bank, num_classes, args.k, args.temperature, mesh)
    with busy("fitting"):
        (fitted,) = fit(
            bank.values,
            bank.labels,
            l2s=(args.l2,),
            num_classes=num_classes,
            max_steps=args.max_steps,
            mesh=mesh,
        )
    return Linear(fitted)


def _open_benchmarks(
    args: argparse.Namespace, train: Source | TfdsStream
) -> tuple[dict[str, Variant], dict[str, list[str]], dict[str, Variant]]:
    """Returns the variants by name, the folders of ImageNet-C, and the variants of ImageNet-9."""
    by_name = {
        f"imagenet_{name}": getattr(args, f"imagenet_{name}") for name in ("a", "r", "sketch")
    }
    numbered = args.imagenet_v2, args.objectnet
    if not any((*by_name.values(), *numbered, args.imagenet_c, args.imagenet_9)):
        if args.no_curves and not args.imagenet_real:
            raise UserError("--no-curves leaves nothing to measure; give --imagenet-a or another")
        return {}, {}, {}
    names = train.class_names
    if names is None:
        raise UserError(
            f"the classes of --data={args.data} have no names by which those of other folders "
            "could be found; give class folders"
        )
    most = args.max_test_per_class
    variants = {
        name: imagenet_variants.open_by_name(folder, f"--{name.replace('_', '-')}", names, most)
        for name, folder in by_name.items()
        if folder
    }
    if args.imagenet_v2:
        variants["imagenet_v2"] = imagenet_variants.open_imagenet_v2(
            args.imagenet_v2, len(names), most
        )
    if args.objectnet:
        variants["objectnet"] = open_objectnet(args.objectnet, len(names), most)
    nine = args.imagenet_9
    return (
        variants,
        imagenet_variants.find_imagenet_c(args.imagenet_c) if args.imagenet_c else {},
        imagenet_variants.open_imagenet_9(nine, names, args.in9_map, most) if nine else {},
    )


def _read_real(file: str, test: Source | TfdsStream) -> np.ndarray:
    """Returns which classes the images of the test split show, see `read_real`."""
    if isinstance(test, TfdsStream):
        raise UserError("--imagenet-real needs images with names; give --data=folder:PATH")
    names = [test.relative_name(index) for index in range(len(test))]
    shown = read_real(file, names, test.num_classes)
    if not shown.any():
        raise UserError(f"--imagenet-real={file} has no classes of the images of {test.name}")
    return shown
