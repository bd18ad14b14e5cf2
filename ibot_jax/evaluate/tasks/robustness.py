"""Robustness of k-NN: occlusion, shuffled tiles, ImageNet-A, -C and -9.

What it measures: how much accuracy is left when images are disturbed. The classifier is weighted
k-NN on class tokens of the undisturbed training split; nothing is trained. (The paper, section 4.3,
takes a linear classifier, and saliency from one fixed model: compare results with each other.)

  occlusion: a share of the patches of test images is blanked with the mean colour: random ones,
    or first the most or the least salient ones, by the class token's attention in the model's own
    last block, mean over heads (Naseer et al., arXiv 2105.10497)
  shuffling: test images are cut into grid x grid tiles, which change places
  --imagenet-a: accuracy among the classes that its folder lists (arXiv 1907.07174)
  --imagenet-c: mCE, errors relative to AlexNet's (arXiv 1903.12261)
  --imagenet-9: accuracy of nine superclasses on other backgrounds, and the gap between mixed_same
    and mixed_rand (arXiv 2006.09994)

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS. The others by option, with class
folders named as those of the training split: --imagenet-a=DIR: DIR/CLASS/*; --imagenet-c=DIR:
DIR/CORRUPTION/SEVERITY/CLASS/*; --imagenet-9=DIR: DIR/VARIANT/val/SUPERCLASS/*.

    python -m ibot_jax.evaluate robustness --from=runs/mine --data=folder:PATH --test-split=val
"""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import imagenet_variants
from ibot_jax.evaluate.benchmarks.corruptions import mean_corruption_error
from ibot_jax.evaluate.benchmarks.robustness_curves import fitting_grids, make_curve_fn, make_points
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache, Features
from ibot_jax.evaluate.features.extract import extract_batches
from ibot_jax.evaluate.measures.neighbours import weighted_knn
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import progress

_QUERIES = 2**17  # features that are classified together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser)
    flags.add(parser, "--cache")
    group = parser.add_argument_group("classifier")
    flags.add_number(group, "--k", 20, "neighbours")
    flags.add_number(
        group, "--temperature", 0.07, "of their votes", kind=flags.above_zero, metavar="T"
    )
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
    for name in "ac9":
        group.add_argument(
            f"--imagenet-{name}", metavar="DIR", help=f"folder of ImageNet-{name.upper()}"
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
    if args.k > len(train):
        raise UserError(f"--k={args.k} is larger than the {len(train):,} training images; lower it")
    with same_end():
        a, c, nine = _open_benchmarks(args, train)
        curve_fn = None
        if not args.no_curves:
            grids = args.grids or fitting_grids(model, views.size)
            curve_fn = make_curve_fn(model, views.size, args.drop_ratios, grids, args.seed)
    cache = FeatureCache(args.cache, model, params, mesh)
    bank = cache(train, views, "train", needed=args.k, purpose=f"--k={args.k}")
    classifier = Classifier(bank, train.num_classes, args.k, args.temperature, mesh)

    def class_token(params, images):
        return model.features(params, model.whole_patches(images)).cls[:, None]

    def measure(source, what, feature_fn=class_token, **kwargs):
        batches = extract_batches(feature_fn, params, views.batches(source), mesh)
        return classifier.accuracies(progress(batches, views.number(source), what), **kwargs)

    def measure_variant(variant, what, **kwargs):
        return measure(variant.source, what, translation=variant.translation, **kwargs)[0]

    def open_c(folder):
        with same_end():
            return imagenet_variants.open_by_name(folder, "--imagenet-c", train.class_names)

    rows, metrics, curves = [], {}, {}

    def add(name, setting, top1):
        rows.append({"test": name, "setting": setting, "top1": top1})

    if curve_fn is not None:
        points = make_points(args.drop_ratios, grids)
        for point, top1 in zip(points, measure(test, "curves", curve_fn), strict=True):
            add(point.curve, point.x, top1)
            curves.setdefault(point.curve, []).append((point.x, top1))
        metrics = {name: float(np.mean([y for _, y in curve])) for name, curve in curves.items()}
    if a:
        metrics["imagenet_a"] = measure_variant(a, "ImageNet-A", restrict=True)
        add("imagenet_a", f"{a.source.num_classes} classes", metrics["imagenet_a"])
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
class Classifier:
    """Weighted k-NN on the features of the training split.

    Attributes:
      bank: those features.
      num_classes: C.
      k: how many neighbours vote.
      temperature: of their votes.
      mesh: the devices.
    """

    bank: Features
    num_classes: int
    k: int
    temperature: float
    mesh: jax.sharding.Mesh

    def accuracies(
        self,
        batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
        *,
        translation: np.ndarray | None = None,
        restrict: bool = False,
    ) -> list[float]:
        """Returns the accuracy in percent of each of P features that images have.

        Args:
          batches: features [B, P, D], labels [B] and valid [B].
          translation: [C], the label for each class of the training split, -1 for none; None if
            labels are those of the training split.
          restrict: whether only training images vote whose class has a label.

        Raises:
          UserError: if no image can be read.
        """
        if translation is None:
            translation = np.arange(self.num_classes)
        voters = slice(None)
        if restrict:
            voters = np.flatnonzero(np.isin(self.bank.labels, np.flatnonzero(translation >= 0)))
        train_features, train_labels = self.bank.values[voters], self.bank.labels[voters]
        if not len(train_labels):
            raise UserError("none of the training images of these classes can be read")
        hits, total = 0, 0
        for features, labels in _gathered(batches, _QUERIES):
            ranked = weighted_knn(
                train_features,
                train_labels,
                features.reshape(-1, features.shape[-1]),
                ks=(min(self.k, len(train_labels)),),
                temperatures=(self.temperature,),
                num_classes=self.num_classes,
                mesh=self.mesh,
            )
            (classes,) = ranked.values()
            found = translation[classes[:, 0]].reshape(features.shape[:2])
            hits = hits + (found == labels[:, None]).sum(axis=0)
            total += len(labels)
        if not total:
            raise UserError("none of the images can be read")
        return [float(share) for share in 100 * hits / total]


def _gathered(
    batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], number: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the valid features [b, P, D] and labels [b] of batches, about `number` at a time."""
    features, labels, count = [], [], 0
    for batch, batch_labels, valid in batches:
        features.append(batch[valid])
        labels.append(batch_labels[valid])
        count += features[-1].shape[0] * features[-1].shape[1]
        if count >= number:
            yield np.concatenate(features), np.concatenate(labels)
            features, labels, count = [], [], 0
    if count:
        yield np.concatenate(features), np.concatenate(labels)


def _open_benchmarks(args: argparse.Namespace, train: Source | TfdsStream):
    """Returns ImageNet-A, the folders of -C, and the variants of -9; None if not asked for."""
    if not (args.imagenet_a or args.imagenet_c or args.imagenet_9):
        if args.no_curves:
            raise UserError("--no-curves leaves nothing to measure; give --imagenet-a, -c or -9")
        return None, None, None
    names = train.class_names
    if names is None:
        raise UserError(
            f"the classes of --data={args.data} have no names by which those of other folders "
            "could be found; give class folders"
        )
    return (
        args.imagenet_a and imagenet_variants.open_by_name(args.imagenet_a, "--imagenet-a", names),
        args.imagenet_c and imagenet_variants.find_imagenet_c(args.imagenet_c),
        args.imagenet_9 and imagenet_variants.open_imagenet_9(args.imagenet_9, names, args.in9_map),
    )
