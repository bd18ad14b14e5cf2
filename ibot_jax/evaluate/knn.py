"""Weighted k-nearest-neighbour classification of frozen features.

What it measures: whether images of one class lie close together. Every test image takes the class
for which its k nearest training images vote, each with weight exp(similarity / T); nothing is
trained. The search is exact; training features are spread over the devices. As in the original
(paper, section 4.2), whose k is 10 and 20, and T 0.07.

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS.

    python -m ibot_jax.evaluate knn --from=runs/mine --data=folder:PATH --k=10,20 --temperature=0.07
"""

import argparse
import contextlib
from typing import Any

import jax
from ml_collections import ConfigDict

from ibot_jax import sharding
from ibot_jax.agreement import in_step
from ibot_jax.data.pipeline import eval_batches
from ibot_jax.data.sources import open_source
from ibot_jax.errors import UserError
from ibot_jax.evaluate import opening, options
from ibot_jax.evaluate.cache import FeatureCache
from ibot_jax.evaluate.features import FeatureFn, extract
from ibot_jax.evaluate.neighbours import accuracy, weighted_knn
from ibot_jax.evaluate.report import Report
from ibot_jax.watchdog import Watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    options.add_model_options(parser)
    options.add_data_options(parser)
    options.add_feature_options(parser)
    group = parser.add_argument_group("k-NN")
    group.add_argument(
        "--k",
        type=options.sequence(options.positive),
        default=(10, 20),
        metavar="N,...",
        help="how many neighbours vote; one search serves all (default: 10,20)",
    )
    group.add_argument(
        "--temperature",
        type=options.sequence(options.above_zero),
        default=(0.07,),
        metavar="T,...",
        help="of the votes; one search serves all (default: 0.07)",
    )


def run(args: argparse.Namespace) -> Report:
    """Measures the accuracy at every k and temperature.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = sharding.make_mesh()
    model, params = opening.open_model(args, mesh)
    train_source, test_source = opening.open_labelled(args, model)
    if max(args.k) > len(train_source):
        raise UserError(
            f"--k={max(args.k)} is larger than the {len(train_source):,} images of "
            f"--train-split={args.train_split}; lower it"
        )
    views = opening.open_views(args, model)
    cache = FeatureCache(args.cache, model, params, mesh, kind=args.features, blocks=args.blocks)
    train, test = cache(train_source, views, "train"), cache(test_source, views, "test")
    ranked = weighted_knn(
        train.values,
        train.labels,
        test.values,
        ks=args.k,
        temperatures=args.temperature,
        num_classes=train_source.num_classes,
        mesh=mesh,
    )
    rows = []
    for (k, temperature), classes in ranked.items():
        top1, top5 = accuracy(classes, test.labels)
        rows.append({"k": k, "temperature": temperature, "top1": top1, "top5": top5})
    best = max(rows, key=lambda row: row["top1"])
    return Report(
        task="knn",
        settings=opening.settings(args, model),
        metrics={"top1": best["top1"], "top5": best["top5"]},
        rows=rows,
    )


class Evaluation:
    """k-NN of a backbone on the train and test split of labelled data.

    Attributes:
      sizes: the numbers of images, in words.
    """

    def __init__(
        self, data: ConfigDict, settings: ConfigDict, watch: Watch = contextlib.nullcontext
    ):
        """Opens both splits, so that what is wrong with them is known at once.

        Args:
          data: `config.data`.
          settings: `config.knn`.
          watch: is told of every wait for images.

        Raises:
          UserError: if they cannot be opened, have no labels or do not fit each other.
        """
        self._data = data
        self._settings = settings
        self._watch = watch
        self._train = self._open("train")
        self._test = self._open("test")
        if self._train.class_names != self._test.class_names:
            raise UserError(
                f"knn.test_split={settings.test_split!r} has other classes than "
                f'knn.train_split={settings.train_split!r}; mend one, or set knn.every=""'
            )
        if settings.k > len(self._train):
            raise UserError(
                f"knn.k={settings.k} is larger than the {len(self._train)} images of "
                f"{self._train.name}; lower it"
            )
        self.sizes = f"{len(self._train):,} train and {len(self._test):,} test images"

    def __call__(
        self, feature_fn: FeatureFn, params: Any, mesh: jax.sharding.Mesh
    ) -> tuple[float, float]:
        """Returns top-1 and top-5 accuracy in percent, on every process.

        Args:
          feature_fn: (params, images [B, H, W, C] uint8) -> features [B, D].
          params: its parameters.
          mesh: the devices.
        """
        features, labels = {}, {}
        for name, source in (("train", self._train), ("test", self._test)):
            features[name], labels[name] = extract(feature_fn, params, self._batches(source), mesh)
        (ranked,) = weighted_knn(
            features["train"],
            labels["train"],
            features["test"],
            ks=(self._settings.k,),
            temperatures=(self._settings.temperature,),
            num_classes=self._train.num_classes,
            mesh=mesh,
        ).values()
        return accuracy(ranked, labels["test"])

    def _open(self, name: str):
        split = self._settings[f"{name}_split"]
        source = open_source(
            self._data.source,
            split,
            data_dir=self._data.data_dir,
            max_per_class=self._settings[f"max_{name}_per_class"],
            channels=self._data.channels,
        )
        if source.num_classes is None:
            raise UserError(
                f"knn.{name}_split={split!r} of {self._data.source!r} has no labels; turn k-NN "
                'off with knn.every=""'
            )
        return source

    def _batches(self, source):
        batches = eval_batches(
            source,
            self._data.global_size,
            self._settings.resize,
            self._settings.batch_size // jax.process_count(),
            self._data.channels,
            jax.process_index(),
            jax.process_count(),
        )
        return (batch for batch, _ in in_step(batches, watch=self._watch))
