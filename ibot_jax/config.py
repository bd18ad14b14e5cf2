"""The documented default configuration, its durations and its checks.

`configs/*.py` start from `get_config()` and override. The config holds primary values only:
step counts and scaled learning rates are derived where they are used, so that an override on the
command line never leaves a stale one behind.
"""

import dataclasses
import re

from ml_collections import ConfigDict

from ibot_jax.errors import UserError

# The published widths, depths and head counts: `config.model.update(VIT_SIZES["small"])`.
VIT_SIZES = {
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# Chips of the pods that the ImageNet configs have settings for, `configs/vitb16.py:v5e-256`.
PODS = {"v5e-16": 16, "v5e-64": 64, "v5e-256": 256, "v4-64": 64, "v5p-64": 64}


def apply_pod(config: ConfigDict, pod: str) -> None:
    """Spreads the batch over the chips of a pod, one of `PODS`; "" leaves the config as it is.

    Raises:
      UserError: if there is no such pod.
    """
    if pod:
        if pod not in PODS:
            raise UserError(f"there are no settings for {pod!r}; use one of {', '.join(PODS)}")
        config.mesh.data = PODS[pod]


def get_config() -> ConfigDict:
    """Returns the default configuration: ViT-S/16 with the published settings, no data source.

    Durations are strings, "10 epochs", "5000 steps" or "1e6 examples"; a bare number means epochs.
    """
    config = ConfigDict()
    config.seed = 0
    config.duration = "100 epochs"
    config.batch_size = 1024  # images a step, over all devices
    config.grad_accum_steps = 1  # parts of a batch, one after the other: less memory, same update
    config.dtype = "bfloat16"  # of the forward and backward pass; "float32", "float64" for parity
    config.init_from = ""  # a workdir or checkpoint whose weights, heads included, start this run

    config.mesh = ConfigDict(  # over how many devices what is spread; see sharding.py
        dict(
            data=0,  # examples; 0 takes all devices that the others leave
            fsdp=1,  # examples, and the state in parts: for models that fill a device's memory
            tensor=1,  # heads, hidden units, prototypes
        )
    )
    config.model = ConfigDict(
        dict(
            **VIT_SIZES["small"],
            mlp_ratio=4.0,
            patch_size=16,
            drop_path=0.1,  # stochastic depth of the last block; the first has 0
            layer_scale=0.0,  # initial LayerScale gain; 0 builds the blocks without it
            kernels="auto",  # of blocks: "cudnn" (GPU), "pallas" (TPU), "xla"; auto: the device's
            remat="none",  # kept for the backward pass: all; "dots", linear outputs; "blocks"
            scan_blocks=False,  # compile one block, not all of them: quicker to start, deep models
        )
    )
    config.head = ConfigDict(
        dict(
            hidden_dim=2048,
            bottleneck_dim=256,
            prototypes=8192,  # outputs for the class token, K
            patch_prototypes=8192,  # outputs for patch tokens; a shared last layer needs the same
            act="gelu",  # or "relu"
            norm_last_layer=True,  # keep the prototypes' norms at 1
            shared=True,  # one last layer for class and patch tokens, in the student
            shared_teacher=True,  # and in the teacher
        )
    )
    config.loss = ConfigDict(
        dict(
            class_weight=1.0,  # lambda1
            patch_weight=1.0,  # lambda2
            student_temp=0.1,
            teacher_temp_start=0.04,
            teacher_temp=0.07,
            teacher_patch_temp_start=0.04,
            teacher_patch_temp=0.07,
            teacher_temp_warmup="30 epochs",
            center_momentum=0.9,
            max_logits=2**27,  # tokens x prototypes at a time on a device: bounds memory, not K
        )
    )
    config.masks = ConfigDict(
        dict(
            kind="block",  # or "random"
            ratios=(0.0, 0.3),  # each global view draws one of these ...
            variances=(0.0, 0.2),  # ... plus uniform noise within that entry's variance
            start="0 epochs",  # no masks before; the patch temperature waits as long
        )
    )
    config.optim = ConfigDict(
        dict(
            name="adamw",  # or "sgd", "lars"
            lr=5e-4,  # for 256 images a step; scaled linearly by batch_size / 256
            min_lr=1e-6,  # at the end, not scaled
            warmup="10 epochs",
            weight_decay=0.04,
            weight_decay_end=0.4,
            clip=3.0,  # largest gradient norm of each parameter tensor; 0 turns clipping off
            freeze_last_layer="1 epochs",
        )
    )
    config.teacher_momentum = 0.996  # rises to 1 on a cosine

    config.data = ConfigDict(
        dict(
            source="",  # "digits", "folder:PATH", "tfds:NAME" or "synthetic"
            split="train",  # a subfolder, or TFDS split syntax such as "train[:10%]"
            data_dir="",  # where TFDS keeps its data; "" is TFDS's own default
            max_per_class=0,  # keep the first so many images of each class, by name; 0 keeps all
            channels=3,
            mean=IMAGENET_MEAN,  # of pixels in [0, 1]; one entry for each channel
            std=IMAGENET_STD,
            global_views=2,
            global_size=(224, 224),  # height, width in pixels
            global_scale=(0.25, 1.0),  # crop area over image area
            local_views=10,
            local_size=(96, 96),
            local_scale=(0.05, 0.25),
            aspect=(3 / 4, 4 / 3),
            flip=0.5,  # probabilities from here on
            jitter=0.8,
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
            gray=0.2,
            blur=(1.0, 0.1, 0.5),  # of global view 1, of the other global views, of local views
            blur_radius=(0.1, 2.0),  # pixels
            solarize=(0.0, 0.2, 0.0),  # of the same three kinds of view
            max_bad_share=0.01,  # stop when more than this share of images cannot be read
            workers=0,  # processes that make views; 0 takes one for each core
            augment="device",  # who changes colours: the accelerator, or the "host"
            stall_seconds=300.0,  # of waiting for input or peers before a warning; 0 never warns
            resize="simd",  # antialiased bicubic; "pillow" is slower, and the original's bytes
        )
    )
    config.knn = ConfigDict(
        dict(
            every="10 epochs",  # of all that is measured of the teacher; "" turns it off
            train_split="train",
            test_split="test",
            max_train_per_class=0,
            max_test_per_class=0,
            max_unlabelled=10_000,  # training images, where they have no labels; 0 takes all
            resize=256,  # shorter side, pixels; then a central crop of data.global_size
            k=20,
            temperature=0.07,
            batch_size=256,
        )
    )
    config.probe = ConfigDict(
        dict(
            l2=1e-5,  # penalty of the linear classifier, see `evaluate.softmax_regression`
            max_steps=300,  # of the solver, from zero at each evaluation; 0 turns the probe off
        )
    )
    config.checkpoint = ConfigDict(
        dict(
            every="1 epochs",
            keep=3,  # the latest so many; the best by k-NN is kept besides
        )
    )
    config.log_every = "50 steps"
    return config


def parse_duration(key: str, text: str) -> tuple[float, str]:
    """Splits "10 epochs" into (10.0, "epochs"); a bare number means epochs.

    Raises:
      UserError: if the text is no duration; `key` names it in the message.
    """
    match = re.fullmatch(r"\s*([0-9.eE+]+)\s*(epochs?|steps?|examples?)?\s*", text)
    try:
        number = float(match.group(1))
    except (AttributeError, ValueError):
        raise UserError(
            f"{key}={text!r} is no duration; "
            'write it as "10 epochs", "5000 steps" or "1e6 examples"'
        ) from None
    return number, (match.group(2) or "epochs").rstrip("s") + "s"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, once the size of the data is known.

    Attributes:
      batch_size: images a step, over all devices.
      steps_per_epoch: whole batches in the data.
      total_steps: optimiser steps of the whole run.
    """

    batch_size: int
    steps_per_epoch: int
    total_steps: int

    def steps(self, key: str, text: str) -> int:
        """Converts the duration `text` of config key `key` to whole steps."""
        return _to_steps(key, text, self.batch_size, self.steps_per_epoch)


def _to_steps(key: str, text: str, batch_size: int, steps_per_epoch: int) -> int:
    number, unit = parse_duration(key, text)
    steps = {
        "epochs": number * steps_per_epoch,
        "steps": number,
        "examples": number / batch_size,
    }[unit]
    return round(steps)


def make_plan(config: ConfigDict, num_examples: int) -> Plan:
    """Derives the run's length from the config and the number of training examples.

    Raises:
      UserError: if the data holds less than one batch, or the run has no step.
    """
    steps_per_epoch = num_examples // config.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"batch_size={config.batch_size} is larger than the data set ({num_examples} images); "
            "use a smaller batch"
        )
    total = _to_steps("duration", config.duration, config.batch_size, steps_per_epoch)
    if total < 1:
        raise UserError(f"duration={config.duration!r} is less than one step; make it longer")
    return Plan(config.batch_size, steps_per_epoch, total)
