"""What a suite measures: where its data lies, how, and what has been published of it.

Published figures: the papers of iBOT (arXiv 2111.07832) and DINOv2 (arXiv 2304.07193), and the
public READMEs of DINOv3 and Franca.
"""

import dataclasses
from collections.abc import Mapping

from ibot_jax.evaluate.benchmarks.depth.data import LAYOUTS, SUN_RGBD
from ibot_jax.evaluate.benchmarks.finegrained.sets import SETS
from ibot_jax.evaluate.benchmarks.instance_sets import PAGES

# Models of which figures are published.
S, B, L = (f"iBOT ViT-{size}/16" for size in "SBL")
L22K = "iBOT ViT-L/16, 22k"  # as DINOv2's paper measures it
DINOV2, DINOV3 = (f"{name} recipe, ViT-L/16" for name in ("DINOv2", "DINOv3"))
FRANCA = "Franca ViT-B/14"
MODELS = (S, B, L, L22K, DINOV2, DINOV3, FRANCA)

ROOT = "{root}"  # in flags: the folder of all data


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that an evaluation finds.

    Attributes:
      title: for people.
      metric: its name in the task's report.
      published: what one of `MODELS` reached by the same protocol.
      unit: of it.
    """

    title: str
    metric: str
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unit: str = "%"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run of one task.

    Attributes:
      name: on the command line.
      task: that is run.
      flags: of the task, `ROOT` for the folder of all data.
      quick: flags of a first look, beside which no published figure stands.
      needs: what has to lie in that folder, and the page where that is to be had.
      figures: that it finds.
      trained_by: the evaluation before it whose head it takes, if not its own.
    """

    name: str
    task: str
    flags: tuple[str, ...]
    quick: tuple[str, ...]
    needs: Mapping[str, str]
    figures: tuple[Figure, ...]
    trained_by: str = ""


_IMAGENET = (f"--data=folder:{ROOT}/imagenet", "--test-split=val")
_IMAGENET_FOLDERS = dict.fromkeys(("imagenet/train", "imagenet/val"), "image-net.org/download")
_INAT_PAGE = "github.com/visipedia/inat_comp"
_FEW = ("--max-train-per-class=50", "--max-test-per-class=10")


def _revisited(dataset: str, city: str, medium: dict, hard: dict) -> Evaluation:
    return Evaluation(
        dataset,
        "retrieval",
        flags=(f"--data={ROOT}", f"--dataset={dataset}"),
        quick=("--size=224", "--single-scale"),
        needs={dataset: "github.com/filipradenovic/revisitop"},
        figures=(
            Figure(f"{city}, medium, mAP", "medium_map", medium),
            Figure(f"{city}, hard, mAP", "hard_map", hard),
        ),
    )


def _depth(layout: str, title: str, head: str, published: float) -> Evaluation:
    flag, words = _DEPTH_HEADS[head]
    return Evaluation(
        f"{layout}-{head}",
        "depth",
        flags=(f"--data={ROOT}/{layout}", f"--layout={layout}", flag),
        quick=("--steps=500",),
        needs={layout: LAYOUTS[layout].page},
        figures=(Figure(f"{title}, RMSE, {words}", "rmse", {L22K: published}, "m"),),
    )


def _sun_rgbd(head: str, published: float) -> Evaluation:
    flag, words = _DEPTH_HEADS[head]
    title = f"SUN RGB-D, trained on NYUd, RMSE, {words}"
    return Evaluation(
        f"sun-rgbd-{head}",
        "depth",
        flags=(f"--data={ROOT}/nyu", "--layout=nyu", f"--sun-rgbd={ROOT}/sun-rgbd", flag),
        quick=("--steps=500",),
        needs={"nyu": LAYOUTS["nyu"].page, "sun-rgbd": SUN_RGBD.page},
        figures=(Figure(title, "sun_rgbd_rmse", {L22K: published}, "m"),),
        trained_by=f"nyu-{head}",
    )


def _segmentation(
    name: str, layout: str, folder: str, title: str, page: str, protocol: str, published: dict
) -> Evaluation:
    return Evaluation(
        name,
        "segmentation",
        flags=(f"--data={ROOT}/{folder}", f"--layout={layout}", f"--protocol={protocol}"),
        quick=("--steps=500", "--warmup=50", "--scales=1", "--mirrored=off"),
        needs={folder: page},
        figures=(Figure(f"{title}, {protocol}, mIoU", "miou", published),),
    )


def _instances(
    name: str, title: str, metric: str, published: float, quick: tuple[str, ...] = ()
) -> Evaluation:
    return Evaluation(
        name,
        "instances",
        flags=(f"--data={ROOT}", f"--set={name}"),
        quick=quick,
        needs={name: PAGES[name]},
        figures=(Figure(title, metric, {L22K: published}),),
    )


def _robustness(
    name: str, page: str, *figures: Figure, place: str = "", flags: tuple[str, ...] = ()
) -> Evaluation:
    place = place or name
    return Evaluation(
        name,
        "robustness",
        flags=(
            *_IMAGENET,
            "--no-curves",
            "--classifier=linear",
            f"--{name}={ROOT}/{place}",
            *flags,
        ),
        quick=(*_FEW, "--max-steps=100"),
        needs=_IMAGENET_FOLDERS | {place: page},
        figures=figures,
    )


def _linear(
    name: str, title: str, data: str, needs: Mapping[str, str], published: dict
) -> Evaluation:
    return Evaluation(
        name,
        "linear",
        flags=(f"--data={data}", "--test-split=val"),
        quick=(*_FEW, "--epochs=5", "--lr=0.001,0.01,0.1", "--batch-size=32"),
        needs=needs,
        figures=(Figure(f"{title}, linear", "top1", published),),
    )


def _finegrained(name: str, title: str, published: float) -> Evaluation:
    return Evaluation(
        name,
        "finegrained",
        flags=(f"--data={ROOT}", f"--set={name}"),
        quick=("--max-per-class=10", "--max-steps=30"),
        needs={SETS[name].folder: SETS[name].page},
        figures=(Figure(f"{title}, logistic", f"{name}/logistic", {L22K: published}),),
    )


_VOC2007, _VOC2012 = (f"VOCdevkit/VOC{year}" for year in (2007, 2012))
_VOC_PAGE = "host.robots.ox.ac.uk/pascal/VOC"
_ADE20K = ("ade20k", "ADEChallengeData2016", "ADE20K", "sceneparsing.csail.mit.edu")
_CITYSCAPES = ("cityscapes", "cityscapes", "Cityscapes", "www.cityscapes-dataset.com")
_VOC_AUG = ("voc-aug", _VOC2012, "VOC2012", f"{_VOC_PAGE}, home.bharathh.info/pubs/codes/SBD")
_NYU, _KITTI = ("nyu", "NYUd"), ("kitti", "KITTI")
_DEPTH_HEADS = {
    "1": ("--blocks=1", "linear on 1"),
    "4": ("--blocks=4", "linear on 4"),
    "dpt": ("--decoder=dpt", "DPT"),
}

EVALUATIONS = (
    Evaluation(
        "imagenet-knn",
        "knn",
        flags=_IMAGENET,
        quick=_FEW,
        needs=_IMAGENET_FOLDERS,
        figures=(
            Figure(
                "ImageNet, k-NN", "top1", {S: 75.2, B: 77.1, L: 78.0, DINOV2: 81.6, DINOV3: 82.0}
            ),
        ),
    ),
    _linear(
        "imagenet-linear",
        "ImageNet",
        f"folder:{ROOT}/imagenet",
        _IMAGENET_FOLDERS,
        {S: 77.9, B: 79.5, L: 81.0, DINOV2: 82.9, DINOV3: 83.5},
    ),
    Evaluation(
        "imagenet-few-labels",
        "logistic",
        flags=(*_IMAGENET, "--labels=1%,10%"),
        quick=_FEW,
        needs=_IMAGENET_FOLDERS,
        figures=(
            Figure("ImageNet, 1 % of labels, logistic", "1%/top1", {S: 65.9}),
            Figure("ImageNet, 10 % of labels, logistic", "10%/top1", {S: 73.4}),
        ),
    ),
    Evaluation(
        "imagenet-few-shot",
        "fewshot",
        flags=_IMAGENET,
        quick=(*_FEW, "--draws=2"),
        needs=_IMAGENET_FOLDERS,
        figures=tuple(
            Figure(f"ImageNet, {shots} of each class, logistic", f"{shots}-shot/logistic")
            for shots in (1, 2, 4, 8, 16)
        ),
    ),
    Evaluation(
        "imagenet-attentive",
        "attentive",
        flags=_IMAGENET,
        quick=(*_FEW, "--steps=300", "--lr=1e-3,5e-3", "--weight-decay=1e-3", "--batch-size=32"),
        needs=_IMAGENET_FOLDERS,
        figures=(Figure("ImageNet, attentive probe", "top1"),),
    ),
    _robustness(
        "imagenet-a",
        "github.com/hendrycks/natural-adv-examples",
        Figure("ImageNet-A, linear", "imagenet_a", {S: 13.8, L22K: 41.5}),
    ),
    _robustness(
        "imagenet-r",
        "github.com/hendrycks/imagenet-r",
        Figure("ImageNet-R, linear", "imagenet_r", {L22K: 51.0}),
    ),
    _robustness(
        "imagenet-c",
        "github.com/hendrycks/robustness",
        Figure(
            "ImageNet-C, linear, mCE (the lower the better)",
            "imagenet_c_mce",
            {S: 48.1, L22K: 43.9},
        ),
    ),
    _robustness(
        "imagenet-sketch",
        "github.com/HaohanWang/ImageNet-Sketch",
        Figure("ImageNet-Sketch, linear", "imagenet_sketch", {L22K: 38.5}),
    ),
    _robustness(
        "imagenet-v2",
        "github.com/modestyachts/ImageNetV2",
        Figure("ImageNet-V2, linear", "imagenet_v2"),
    ),
    _robustness(
        "imagenet-real",
        "github.com/google-research/reassessed-imagenet",
        Figure("ImageNet-ReaL, linear", "imagenet_real"),
        place="imagenet-real/real.json",
    ),
    _robustness(
        "imagenet-9",
        "github.com/MadryLab/backgrounds_challenge",
        Figure("ImageNet-9, mixed-same, linear", "imagenet_9_mixed_same", {S: 89.7}),
        Figure("ImageNet-9, mixed-random, linear", "imagenet_9_mixed_rand", {S: 81.7}),
        flags=(f"--in9-map={ROOT}/imagenet-9/in_to_in9.json",),
    ),
    _robustness("objectnet", "objectnet.dev", Figure("ObjectNet, linear", "objectnet")),
    _linear(
        "inat2018",
        "iNaturalist 2018",
        f"list:{ROOT}/inat2018/{{split}}.csv",
        dict.fromkeys(("inat2018/train.csv", "inat2018/val.csv"), _INAT_PAGE),
        {L22K: 66.3},
    ),
    _linear(
        "inat2021",
        "iNaturalist 2021",
        f"folder:{ROOT}/inat2021",
        dict.fromkeys(("inat2021/train", "inat2021/val"), _INAT_PAGE),
        {L22K: 74.6},
    ),
    _linear(
        "places205",
        "Places205",
        f"list:{ROOT}/places205/images256/{{split}}.csv",
        dict.fromkeys(
            ("places205/images256/train.csv", "places205/images256/val.csv"), "places.csail.mit.edu"
        ),
        {L22K: 64.4},
    ),
    _finegrained("food101", "Food-101", 91.0),
    _finegrained("cifar10", "CIFAR-10", 99.0),
    _finegrained("cifar100", "CIFAR-100", 92.8),
    _finegrained("sun397", "SUN397", 75.6),
    _finegrained("cars", "Stanford Cars", 71.8),
    _finegrained("aircraft", "FGVC-Aircraft", 72.4),
    _finegrained("voc2007", "VOC2007, mAP", 89.0),
    _finegrained("dtd", "DTD", 80.7),
    _finegrained("pets", "Oxford-IIIT Pets", 87.7),
    _finegrained("caltech101", "Caltech-101", 97.5),
    _finegrained("flowers102", "Flowers-102", 99.6),
    _finegrained("cub200", "CUB-200-2011", 82.1),
    _revisited("roxford5k", "Oxford", {S: 36.6, L22K: 39.0}, {S: 13.0, L22K: 12.7}),
    _revisited("rparis6k", "Paris", {S: 61.5, L22K: 70.7}, {S: 34.1, L22K: 47.0}),
    _instances("met", "Met, GAP", "gap", 25.1, quick=("--set=mini-met",)),
    _instances("amstertime", "AmsterTime, mAP", "map", 26.7),
    Evaluation(
        "davis",
        "davis",
        flags=(f"--data={ROOT}/DAVIS",),
        quick=("--size=240",),
        needs={"DAVIS/ImageSets/2017/val.txt": "davischallenge.org"},
        figures=(
            Figure("DAVIS, J&F", "jf_mean", {S: 61.8}),
            Figure("DAVIS, J", "j_mean", {S: 60.4}),
            Figure("DAVIS, F", "f_mean", {S: 63.2}),
        ),
    ),
    Evaluation(
        "voc-incontext",
        "incontext",
        flags=(f"--data={ROOT}/{_VOC2012}", "--layout=voc-aug"),
        quick=("--size=224", "--memory-size=100000", "--epochs=1", "--max-images=300"),
        needs={_VOC2012: _VOC_PAGE},
        figures=(Figure("VOC2012, in context, mIoU", "miou", {FRANCA: 75.7}),),
    ),
    Evaluation(
        "spair",
        "spair",
        flags=(f"--data={ROOT}/SPair-71k",),
        quick=("--max-pairs=300",),
        needs={"SPair-71k": "cvlab.postech.ac.kr/research/SPair-71k"},
        figures=(Figure("SPair-71k, PCK at 0.1, all points", "points_0.1"),),
    ),
    Evaluation(
        "voc2007-discovery",
        "discovery",
        flags=(f"--data={ROOT}/{_VOC2007}",),
        quick=("--max-images=300",),
        needs={_VOC2007: _VOC_PAGE},
        figures=(
            Figure("VOC2007, CorLoc of LOST", "lost_corloc"),
            Figure("VOC2007, CorLoc of TokenCut", "tokencut_corloc"),
        ),
    ),
    _segmentation("ade20k-ibot", *_ADE20K, "ibot", {B: 38.3}),
    _segmentation("ade20k", *_ADE20K, "dinov2", {L22K: 44.6}),
    _segmentation("ade20k-ms", *_ADE20K, "dinov2-ms", {L22K: 47.5}),
    Evaluation(
        "ade20k-upernet",
        "upernet",
        flags=(f"--data={ROOT}/ADEChallengeData2016", "--layout=ade20k"),
        quick=("--steps=500", "--warmup=50"),
        needs={"ADEChallengeData2016": "sceneparsing.csail.mit.edu"},
        figures=(
            Figure("ADE20K, UperNet, mIoU", "miou", {B: 50.0}),
            Figure("ADE20K, UperNet, mean accuracy", "mean_accuracy", {B: 60.3}),
        ),
    ),
    _segmentation("cityscapes", *_CITYSCAPES, "dinov2", {L22K: 64.8}),
    _segmentation("cityscapes-ms", *_CITYSCAPES, "dinov2-ms", {L22K: 74.5}),
    _segmentation("voc-aug", *_VOC_AUG, "dinov2", {L22K: 82.3}),
    _segmentation("voc-aug-ms", *_VOC_AUG, "dinov2-ms", {L22K: 84.3}),
    _depth(*_NYU, "1", 0.417),
    _depth(*_NYU, "4", 0.387),
    _depth(*_NYU, "dpt", 0.358),
    _depth(*_KITTI, "1", 3.31),
    _depth(*_KITTI, "4", 3.07),
    _depth(*_KITTI, "dpt", 2.55),
    _sun_rgbd("1", 0.447),
    _sun_rgbd("4", 0.435),
    _sun_rgbd("dpt", 0.426),
)
