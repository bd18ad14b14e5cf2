"""The configs that come with the project: sound, and of the published sizes."""

import math
import pathlib

import jax
import pytest
import recipes

from ibot_jax.config import get_config
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import flatten, section
from ibot_jax.config.keys import Kind
from ibot_jax.config.open_keys import open_keys
from ibot_jax.config.plan import make_plan, peak_rate
from ibot_jax.errors import UserError
from ibot_jax.methods.state import teacher_params
from ibot_jax.models.architectures import geometry_of
from ibot_jax.runs.check import check_config, check_devices, check_plan
from ibot_jax.runs.memory import num_parameters
from ibot_jax.runs.training import make_init, name_problems
from ibot_jax.tools import flops

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
IMAGENET = 1_281_167

# Parameters of backbone and head in the published ViT-S/B/L checkpoints, added up from the shapes
# in state_dict_shapes.json, the last layer that class and patch tokens share counted once.
PUBLISHED = {
    "vits16": (21_666_048, 7_614_720),
    "vitb16": (85_799_424, 8_401_152),
    "vitl16": (303_302_656, 8_925_440),
}
# The same of Swin, in state_dict_shapes_swin.json without its buffers of integers; L is timm's,
# 196,532,476 with a classifier of 1,000 and without the mask token.
SWIN = {
    "swint7": (27_519_450, 8_401_152),
    "swint14": (27_569_850, 8_401_152),
    "swins7": (48_837_354, 8_401_152),
    "swins14": (48_968_394, 8_401_152),
    "swinb7": (86_743_352, 8_925_440),
    "swinb14": (86_918_072, 8_925_440),
    "swinl7": (196_532_476 - 1_537_000 + 192, 9_974_016),
}
# Of the heirs, in state_dict_shapes_dino.json: DINOv2's ViT-g/14 has positions for 518 pixels, and
# DINOv3's ViT-7B/16 is published without the norm of local views; ViT-L/16 is the original's with
# LayerScale, and without learned positions in DINOv3.
HEIRS = {
    "dinov2_vitl16": 303_302_656 + 24 * 2 * 1024,
    "dinov2_vitg14": 1_136_480_768 - (37**2 - 16**2) * 1536,
    "dinov3_vitl16": 303_302_656 + 24 * 2 * 1024 - 197 * 1024,
    "dinov3_vit7b16": 6_716_035_072 + 2 * 4096,
}
NUM_IMAGES = {
    **dict.fromkeys(("digits", "digits:ibot"), 1_442),
    "cifar10": 50_000,
    "cifar10:dinov2": 50_000,
    "cifar10:swin": 50_000,
    "cifar10:large": 50_000,
    "cifar10:reference": 5_000,
    **dict.fromkeys(("continue", "continue:small"), 3_000),
    "continue:large": 200_000,
    **dict.fromkeys((*PUBLISHED, *SWIN, "dino_vits16"), IMAGENET),
    **dict.fromkeys(("dinov2_vitl16", "dinov3_vitl16", "dinov3_vitl16:gram"), IMAGENET),
    "dinov2_vitg14": 14_197_122,  # ImageNet-22K
    **dict.fromkeys(("dinov3_vit7b16", "dinov3_vit7b16:gram"), 1_689_000_000),
}
RECOMMENDED = ("recommended_vits16", "recommended_vitb16", "recommended_vitl16")
NUM_IMAGES |= dict.fromkeys(RECOMMENDED, 100_000)
# With settings of their own for these pods.
HEIRS_ON_PODS = [
    "dinov2_vitl16:v5e-64",
    "dinov2_vitg14:v5p-64",
    "dinov3_vitl16:v5e-64",
    "dinov3_vitl16:gram,v5e-64",
    "dinov3_vit7b16:v5p-512",
    "dinov3_vit7b16:gram,v5p-512",
]


def load(name):
    return recipes.load(CONFIGS, name)


def test_every_config_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {n.split(":")[0] for n in NUM_IMAGES}


@pytest.mark.parametrize("name", NUM_IMAGES)
def test_a_config_is_sound(name):
    config = load(name)
    for key in open_keys(flatten(config)):  # as if the weights were a ViT-S/16
        config.update_from_flattened_dict({key: KEYS[key].default})
    check_config(config)
    plan = make_plan(config, NUM_IMAGES[name])
    check_plan(config, plan)
    assert name_problems(config, plan) == []


@pytest.mark.parametrize("pod", ["v5e-16", "v5e-64", "v5e-256", "v4-64", "v5p-64"])
@pytest.mark.parametrize("name", [*PUBLISHED, "swint7"])
def test_the_settings_of_a_pod_go_with_its_chips_and_keep_the_published_batch(name, pod):
    check_pod(f"{name}:{pod}", name)


@pytest.mark.parametrize("name", HEIRS_ON_PODS)
def test_the_heirs_have_settings_for_pods(name):
    recipe, _, options = name.partition(":")
    check_pod(name, f"{recipe}:gram" if "gram" in options else recipe)


def check_pod(name, plain):
    """Checks that a pod changes how a config is computed, and nothing that is learned."""
    config, plain = load(name), load(plain)
    check_config(config)
    chips = int(name.rpartition("-")[2])
    check_devices(config, chips, chips // 4)
    assert math.prod(config.mesh.values()) == chips
    before, after = flatten(plain), flatten(config)
    changed = {key for key in after if after[key] != before[key]}
    assert {KEYS[key].kind for key in changed} == {Kind.EXECUTED}


def test_the_swin_of_cifar10_costs_what_a_vit_does():
    """So the curves of docs/results.md are of equal FLOPs, and of the same recipe."""
    swin, vit = load("cifar10:swin"), load("cifar10")
    vit.model.depth = 6
    cost = [flops.total(flops.of_run(c)) for c in (swin, vit)]
    assert cost[0] == pytest.approx(cost[1], rel=0.03)
    swin.model = vit.model
    assert flatten(swin) == flatten(vit)


def test_an_unknown_pod_is_a_mistake_of_the_user():
    with pytest.raises(UserError, match=r"no settings for 'v9-1'; use one of v5e-16, v5e"):
        load("vitb16:v9-1")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    config = load(name)
    state = jax.eval_shape(make_init(config, make_plan(config, IMAGENET)), jax.random.key(0))
    for params in (state.params, teacher_params(state)):
        counts = tuple(
            sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params[part]))
            for part in ("backbone", "head")
        )
        assert counts == PUBLISHED[name]


@pytest.mark.parametrize("name", SWIN)
def test_a_swin_has_the_published_parameters(name):
    parameters = num_parameters(flatten(load(name)))
    backbone = sum(n for keys, n in parameters.items() if not keys[0].startswith("head."))
    assert (backbone, sum(parameters.values()) - backbone) == SWIN[name]


@pytest.mark.parametrize("name", HEIRS)
def test_a_network_of_the_heirs_has_the_published_parameters(name):
    parameters = num_parameters(flatten(load(name)))
    backbone = sum(n for keys, n in parameters.items() if not keys[0].startswith("head."))
    assert backbone == HEIRS[name]


def test_the_recipes_of_the_heirs_have_their_peaks():
    """Learning rates by their rules: base x sqrt(batch / 1024), in DINOv3 x 4; 4e-4 in its 7B."""
    rates = {
        "dinov2_vitl16": 4e-3 * math.sqrt(2048 / 1024),
        "dinov2_vitg14": 2e-4 * math.sqrt(3072 / 1024),
        "dinov3_vitl16": 1e-3 * 4 * math.sqrt(2048 / 1024),
        "dinov3_vit7b16": 4e-4,
    }
    for name, rate in rates.items():
        config = load(name)
        found = peak_rate(config.optim.lr, config.batch_size, config.optim.lr_scaling)
        assert found == pytest.approx(rate), name


def test_the_recommended_recipes_differ_by_size_alone():
    small, *larger = (flatten(load(name)) for name in RECOMMENDED)
    sizes = ("width", "depth", "heads", "drop_path")
    for other in larger:
        changed = {key for key in other if other[key] != small[key]}
        assert changed <= {"optim.lr", *(f"model.{name}" for name in sizes)}


def test_the_swin_recipes_have_the_masks_of_the_original():
    """Tiny models of windows 7 and 14: 300 epochs, masks of 32-pixel cells from epoch 50 on."""
    for name, window in (("swint7", 7), ("swint14", 14)):
        flat = flatten(load(name))
        assert (flat["duration"], flat["masks.start"]) == ("300 epochs", "50 epochs")
        assert (flat["model.window"], flat["model.drop_path"]) == (window, 0.1)
        assert geometry_of(section(flat, "model")).grid((224, 224)) == (7, 7)


def test_the_small_recipe_is_the_one_of_the_original_readme():
    """--teacher_temp 0.07 --warmup_teacher_temp_epochs 30 --norm_last_layer false --epochs 800
    --shared_head true --out_dim 8192 --local_crops_number 10 --global_crops_scale 0.25 1
    --local_crops_scale 0.05 0.25 --pred_ratio 0 0.3 --pred_ratio_var 0 0.2, 16 GPUs of 64 images.
    """
    flat = flatten(load("vits16"))
    expected = {
        "loss.teacher_temp": 0.07,
        "loss.teacher_temp_warmup": "30 epochs",
        "head.norm_last_layer": False,
        "duration": "800 epochs",
        "head.shared": True,
        "head.shared_teacher": True,
        "head.prototypes": 8192,
        "data.local_views": 10,
        "data.global_scale": (0.25, 1.0),
        "data.local_scale": (0.05, 0.25),
        "masks.ratios": (0.0, 0.3),
        "masks.variances": (0.0, 0.2),
        "batch_size": 16 * 64,
    }
    assert {key: flat[key] for key in expected} == expected


def test_the_cifar_reference_has_the_budget_of_the_original_run():
    flat = flatten(load("cifar10:reference"))
    expected = {
        "duration": "30 epochs",
        "batch_size": 64,
        "model.width": 96,
        "model.depth": 4,
        "model.heads": 3,
        "model.patch_size": 4,
        "model.drop_path": 0.1,
        "head.hidden_dim": 256,
        "head.bottleneck_dim": 64,
        "head.prototypes": 512,
        "head.patch_prototypes": 512,
        "head.shared": True,
        "head.norm_last_layer": True,
        "loss.teacher_temp_start": 0.04,
        "loss.teacher_temp": 0.04,
        "loss.teacher_patch_temp_start": 0.04,
        "loss.teacher_patch_temp": 0.07,
        "loss.teacher_temp_warmup": "10 epochs",
        "teacher_momentum": 0.996,
        "masks.ratios": (0.0, 0.3),
        "masks.variances": (0.0, 0.2),
        "optim.lr": 0.002,
        "optim.warmup": "3 epochs",
        "optim.clip": 3.0,
        "data.max_per_class": 500,
        "data.global_views": 2,
        "data.global_size": (32, 32),
        "data.global_scale": (0.25, 1.0),
        "data.local_views": 2,
        "data.local_size": (16, 16),
        "data.local_scale": (0.05, 0.25),
        "data.blur": (0.0, 0.0, 0.0),
        "knn.max_train_per_class": 500,
        "knn.max_test_per_class": 200,
        "knn.k": 20,
    }
    assert {key: flat[key] for key in expected} == expected


def test_an_unknown_variant_is_a_mistake_of_the_user():
    with pytest.raises(UserError, match="'refrence'"):
        load("cifar10:refrence")


def test_configs_are_short():
    """Each is what it changes of the one documented default; what is open is not set."""
    default = flatten(get_config())
    for name in NUM_IMAGES:
        changed = {k for k, v in flatten(load(name)).items() if v not in (default[k], None)}
        assert 0 < len(changed) < 65, name
