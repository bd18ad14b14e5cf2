"""The recipes that come with the project: sound, and those of the original."""

import pathlib

import pytest
import recipes

from ibot_jax.config.flat import flatten
from ibot_jax.config.plan import make_plan
from ibot_jax.errors import UserError
from ibot_jax.finetune.check import check_run, problems_at_hand
from ibot_jax.finetune.config import get_config
from ibot_jax.finetune.step import make_schedule

CONFIGS = pathlib.Path(__file__).parents[2] / "configs/finetune"
IMAGENET = 1_281_167
NUM_IMAGES = {
    "vits16": IMAGENET,
    "vitb16": IMAGENET,
    "vitl16": IMAGENET,
    "few_labels": 12_811,
    "digits": 1_442,
    "cifar10": 5_000,
    "transfer:cifar10": 50_000,
    "transfer:cifar100": 50_000,
    "transfer:flowers": 2_040,
    "transfer:cars": 8_144,
    "transfer:inat18": 437_513,
    "transfer:inat19": 265_213,
    "transfer:inat18-small": 437_513,
    "transfer:inat19-small": 265_213,
}


def load(name):
    return recipes.load(CONFIGS, name)


def peak(name):
    """The highest learning rate of a run."""
    config = load(name)
    plan = make_plan(config, NUM_IMAGES[name])
    return float(make_schedule(config.optim, plan)(plan.steps("warmup", config.optim.warmup) * 1.0))


def test_every_config_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {n.split(":")[0] for n in NUM_IMAGES}


@pytest.mark.parametrize("name", NUM_IMAGES)
def test_a_config_is_sound(name):
    config = load(name)
    assert problems_at_hand(flatten(config)) == []
    check_run(flatten(config), make_plan(config, NUM_IMAGES[name]), channels=3, num_devices=1)


@pytest.mark.parametrize(
    ("name", "epochs", "layer_decay", "drop_path", "warmup"),
    [("vits16", 200, 0.75, 0.1, 20), ("vitb16", 100, 0.65, 0.2, 20), ("vitl16", 50, 0.75, 0.4, 5)],
)
def test_the_imagenet_recipes_are_the_originals(name, epochs, layer_decay, drop_path, warmup):
    """Of its README (--epochs, --layer_decay, --drop_path, --warmup_epochs) and run.sh (--mixup 0.8
    --cutmix 1.0), on 8 GPUs of 128 images at 4e-3; smoothing, erasing, decay: its code's defaults.
    """
    flat = flatten(load(name))
    expected = {
        "duration": f"{epochs} epochs",
        "batch_size": 8 * 128,
        "drop_path": drop_path,
        "optim.layer_decay": layer_decay,
        "optim.warmup": f"{warmup} epochs",
        "optim.weight_decay": 0.05,
        "optim.min_lr": 1e-6,
        "loss.mixup": 0.8,
        "loss.cutmix": 1.0,
        "loss.label_smoothing": 0.1,
        "data.erase": 0.25,
        "data.rand_augment.ops": 2,
        "data.rand_augment.magnitude": 9.0,
        "data.rand_augment.magnitude_std": 0.5,
        "data.test_interpolation": "bilinear",  # run_class_finetuning.py, build_transform
    }
    assert {key: flat[key] for key in expected} == expected
    assert peak(name) == pytest.approx(4e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "lr", "batch_size", "epochs"),
    [
        ("transfer:cifar10", 7.5e-6, 8 * 96, 1000),
        ("transfer:cars", 7.5e-5, 8 * 96, 1000),
        ("transfer:inat18", 7.5e-6, 8 * 96, 360),
        ("transfer:inat19-small", 2.5e-5, 8 * 96, 360),
        ("few_labels", 5e-6, 8 * 128, 1000),
    ],
)
def test_other_recipes_scale_the_rate_by_512_images_as_the_original(name, lr, batch_size, epochs):
    config = load(name)
    assert config.batch_size == batch_size and config.duration == f"{epochs} epochs"
    assert config.optim.layer_decay == 1.0 and config.drop_path == 0.1
    assert config.data.test_interpolation == "bicubic"  # eval_cls.py, build_transform
    assert peak(name) == pytest.approx(lr * batch_size / 512, rel=1e-3)


def test_an_unknown_variant_is_a_mistake_of_the_user():
    with pytest.raises(UserError, match=r"'cifar11'; use transfer\.py:cifar10, :cifar100"):
        load("transfer:cifar11")


def test_configs_are_short():
    """Each is what it changes of the one documented default, which is that of ViT-B/16."""
    for name in NUM_IMAGES:
        changed = {k for k, v in flatten(load(name)).items() if v != flatten(get_config())[k]}
        assert len(changed) < 20 and bool(changed) == (name != "vitb16"), name
