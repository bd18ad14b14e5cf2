"""Every mistake in a config is one line that names the key, the value and what would do."""

import re

import pytest

from ibot_jax.config import flatten, get_config
from ibot_jax.config.plan import Plan
from ibot_jax.errors import UserError
from ibot_jax.runs import check as config_check
from ibot_jax.runs.check import length_problems, problems_at_hand


def config_with(**changes):
    """Returns the default config with keys changed; "__" stands for the dot."""
    config = get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def test_the_default_config_is_sound():
    config_check.check_config(get_config())


# (changes, what the line must say)
DINOV2 = dict(method="dinov2", data__local_views=2)
MISTAKES = {
    "balanced targets of another method": (
        dict(loss__targets="sinkhorn"),
        r"loss\.targets='sinkhorn' is of method=\"dinov2\", not 'ibot'",
    ),
    "balanced targets in parts": (
        DINOV2 | dict(loss__targets="sinkhorn", grad_accum_steps=2),
        r"loss\.targets='sinkhorn' relates all images .*grad_accum_steps=2 .*set that to 1",
    ),
    "balanced targets of few tokens": (
        DINOV2 | dict(loss__targets="sinkhorn", batch_size=4, optim__min_lr=0.0),
        r"loss\.targets='sinkhorn' shares head\.prototypes=8192 among the 8 class tokens .*at most "
        r"8000 prototypes",
    ),
    "koleo of another method": (dict(loss__koleo_weight=0.1), r"loss\.koleo_weight=0\.1 is of "),
    "koleo in parts": (
        DINOV2 | dict(loss__koleo_weight=0.1, grad_accum_steps=4),
        r"loss\.koleo_weight=0\.1 relates all images .*grad_accum_steps=4",
    ),
    "koleo of one image": (
        DINOV2 | dict(loss__koleo_weight=0.1, loss__koleo_group=1),
        r"loss\.koleo_group=1 leaves an image 0 others, .*use 2 or more",
    ),
    "koleo of a batch of one": (
        DINOV2 | dict(loss__koleo_weight=0.1, batch_size=1, optim__min_lr=0.0),
        r"batch_size=1 leaves an image 0 others",
    ),
    "koleo of more neighbours than there are": (
        DINOV2 | dict(loss__koleo_weight=0.1, loss__koleo_group=4, loss__koleo_nearest=4),
        r"loss\.koleo_group=4 leaves an image 3 others, and loss\.koleo_nearest=4 .*use 5 or more",
    ),
    "koleo in groups that do not divide": (
        DINOV2 | dict(loss__koleo_weight=0.1, loss__koleo_group=100),
        r"loss\.koleo_group=100 does not divide batch_size=1024",
    ),
    "separate heads that share": (
        dict(head__separate=True, head__shared_teacher=False),
        r"head\.shared=True shares a last layer between heads that head\.separate=True keeps apart",
    ),
    "units of a head that is not there": (
        dict(head__patch_bottleneck_dim=128),
        r"head\.patch_bottleneck_dim=128 is of a separate head",
    ),
    "mask ratio below its variance": (
        dict(masks__ratios=(0.0, 0.1), masks__variances=(0.0, 0.2)),
        r"masks\.ratios=\(0\.0, 0\.1\) has 0\.1 below its variance 0\.2",
    ),
    "mask ratio past one": (
        dict(masks__ratios=(0.9,), masks__variances=(0.2,)),
        r"masks\.ratios=\(0\.9,\) has 0\.9 .* variance 0\.2 passes 1",
    ),
    "mask lists of two lengths": (
        dict(masks__ratios=(0.3,)),
        r"masks\.ratios=\(0\.3,\) and masks\.variances=\(0\.0, 0\.2\)",
    ),
    "no mask ratio": (dict(masks__ratios=(), masks__variances=()), r"masks\.ratios=\(\)"),
    "dealt ratios": (
        dict(masks__kind="dinov2", masks__ratios=(0.3,), masks__variances=(0.2,)),
        r"masks\.ratios=\(0\.3,\) is for masks\.kind 'block' and 'random', not 'dinov2'",
    ),
    "share of masks that are not dealt": (
        dict(masks__share=0.4),
        r"masks\.share=0\.4 is for masks\.kind 'dinov2' and 'dinov3', not 'block'",
    ),
    "nothing dealt": (
        dict(masks__kind="dinov3", masks__share=1e-4),
        r"masks\.share=0\.0001 of a batch's \d+ global views is none; use at least 0\.0",
    ),
    "mask kind": (dict(masks__kind="blocks"), r"masks\.kind='blocks' .*block or random"),
    "global crop and patch": (
        dict(data__global_size=(224, 230)),
        r"data\.global_size=\(224, 230\) .*divisible by model\.patch_size=16",
    ),
    "local crop and patch": (dict(data__local_size=(90, 96)), r"data\.local_size=\(90, 96\)"),
    "a swin's view and its output tokens": (
        dict(model__arch="swin", model__patch_size=4, data__local_size=(96, 80)),
        r"data\.local_size=\(96, 80\) must be divisible by 32, ",
    ),
    "a vit's key of a swin": (
        dict(model__arch="swin", model__patch_size=4, model__layer_scale=0.1),
        r"model\.layer_scale=0\.1 is for model\.arch='vit', not 'swin'; leave it at 0",
    ),
    "a swin's key of a vit": (
        dict(model__window=14),
        r"model\.window=14 is for model\.arch='swin'",
    ),
    "stages of two numbers": (
        dict(model__arch="swin", model__patch_size=4, model__stage_depths=(2, 2)),
        r"model\.stage_depths=\(2, 2\) and model\.stage_heads=\(3, 6, 12, 24\) need as many",
    ),
    "heads of a stage": (
        dict(model__arch="swin", model__patch_size=4, model__width=100),
        r"model\.stage_heads=\(3, 6, 12, 24\) does not divide the width of its stage, 100",
    ),
    "a swin's kernels": (
        dict(model__arch="swin", model__patch_size=4, model__kernels="cudnn"),
        r"model\.kernels='cudnn' takes no model\.arch=\"swin\"",
    ),
    "a last part longer than the run": (
        dict(high_res__last="101 epochs"),
        r"high_res\.last='101 epochs' is longer than the run, '100 epochs'; use up to \"100%\"",
    ),
    "sizes of a last part that is not there": (
        dict(high_res__global_sides=(518,)),
        r"high_res\.global_sides=\(518,\) needs high_res\.last, the length of that part",
    ),
    "sizes of two numbers": (
        dict(high_res__last="10%", high_res__global_sides=(512, 768)),
        r"high_res\.local_sides=\(112,\) and high_res\.global_sides=\(512, 768\) need as many",
    ),
    "no size": (
        dict(
            high_res__last="10%",
            high_res__global_sides=(),
            high_res__local_sides=(),
            high_res__shares=(),
        ),
        r"high_res\.local_sides=\(\) and high_res\.global_sides=\(\) need as many entries, at ",
    ),
    "a high resolution of other patches": (
        dict(model__patch_size=14, data__local_size=(98, 98), high_res__last="10%"),
        r"high_res\.global_sides=\(512,\) makes views of 512 x 512 pixels, which must be divisible "
        r"by model\.patch_size=14",
    ),
    "a high resolution of a swin's output tokens": (
        dict(model__arch="swin", model__patch_size=4, high_res__last="10%"),
        r"high_res\.local_sides=\(112,\) makes views of 112 x 112 pixels, .* by 32, ",
    ),
    "a gram teacher's view there": (
        dict(
            gram__weight=1.0,
            gram__scale=1.5,
            high_res__last="10%",
            high_res__global_sides=(240,),
        ),
        r"gram\.scale=1\.5 times the high_res\.global_sides \(240, 240\) is not of whole patches",
    ),
    "heads": (dict(model__heads=5), r"model\.heads=5 does not divide model\.width=384"),
    "shared head": (
        dict(head__patch_prototypes=4096),
        r"head\.patch_prototypes=4096 differs from head\.prototypes=8192",
    ),
    "head shared in the teacher alone": (
        dict(head__patch_prototypes=4096, head__shared=False),
        r"head\.patch_prototypes=4096",
    ),
    "mean per channel": (dict(data__channels=1), r"data\.mean=.* needs data\.channels=1 entries"),
    "mean of ten channels": (
        dict(data__channels=10),
        r"data\.mean=.* needs data\.channels=10 entries, and has 3; .*tools\.data SOURCE",
    ),
    "hue of ten channels": (
        dict(data__channels=10, data__mean=(0.5,) * 10, data__std=(0.5,) * 10, data__hue=0.2),
        r"data\.hue=0\.2 is of colours, which images of data\.channels=10 have none",
    ),
    "grey of bands": (
        dict(data__bands=True, data__gray=0.5),
        r"data\.gray=0\.5 is of colours, which images of data\.channels=3 and data\.bands",
    ),
    "bands of one channel": (
        dict(data__channels=1, data__mean=(0.5,), data__std=(0.5,), data__bands=True),
        r"data\.bands=True needs data\.channels of 2 or more",
    ),
    "percentiles that are the same": (
        dict(data__clip_percentiles=(5.0, 5.0)),
        r"data\.clip_percentiles=\(5\.0, 5\.0\) are the same percentile; write 1,99, or 0,0",
    ),
    "a negative width": (
        dict(data__window=(40.0, -400.0)),
        r"data\.window=\(40\.0, -400\.0\) must be a centre from .* and a width",
    ),
    "too many channels": (dict(data__channels=33), r"data\.channels=33 must be from 1 to 32"),
    "crop size with one side": (
        dict(data__global_size=(32,)),
        r"data\.global_size=\(32,\) needs 2 entries",
    ),
    "blur with two entries": (
        dict(data__blur=(1.0, 0.5)),
        r"data\.blur=\(1\.0, 0\.5\) needs 3 entries",
    ),
    "dtype": (dict(dtype="float16"), r"dtype='float16' .*bfloat16 or float32 or float64"),
    "optimiser": (dict(optim__name="adam"), r"optim\.name='adam' .*adamw or sgd or lars"),
    "who changes colours": (dict(data__augment="gpu"), r"data\.augment='gpu' .*device or host"),
    "resizing": (dict(data__resize="area"), r"data\.resize='area' .*simd or pillow"),
    "activation": (dict(head__act="silu"), r"head\.act='silu' .*gelu or relu"),
    "temperature": (
        dict(loss__teacher_temp=0.0),
        r"loss\.teacher_temp=0\.0 must be from 0\.0001 to",
    ),
    "lowest rate above the highest": (
        dict(optim__lr=1e-3, optim__min_lr=1e-1),
        r"optim\.min_lr=0\.1 is above .* optim\.lr=0\.001 x batch_size / 256 = 0\.004; lower",
    ),
    "lowest rate above the highest, by the square root": (
        dict(optim__lr=1e-3, optim__min_lr=3e-3, optim__lr_scaling="sqrt"),
        r"optim\.min_lr=0\.003 is above .* optim\.lr=0\.001 x sqrt\(batch_size / 256\) = 0\.002",
    ),
    "no shape of a rate": (
        dict(optim__schedule="step"),
        r"optim\.schedule='step' .*cosine or linear or constant",
    ),
    "a cooldown of a cosine": (
        dict(optim__cooldown="10%"),
        r"optim\.cooldown='10%' needs optim\.schedule=\"constant\", not 'cosine'",
    ),
    "a cooldown that begins in the warm-up": (
        dict(optim__schedule="constant", optim__warmup="30%", optim__cooldown="80%"),
        r"duration='100 epochs' is too short for optim\.cooldown='80%'",
    ),
    "a line that is cut": (
        dict(optim__trunc_extra=0.25, optim__schedule="linear", optim__schedule_end="included"),
        r"optim\.trunc_extra=0\.25 needs optim\.schedule=\"cosine\", not 'linear'",
    ),
    "a cut cosine that ends after the run": (
        dict(optim__trunc_extra=0.25),
        r"optim\.trunc_extra=0\.25 ends at the last step; set optim\.schedule_end=\"included\"",
    ),
    "betas of SGD": (
        dict(optim__name="sgd", optim__betas=(0.9, 0.99)),
        r"optim\.betas=\(0\.9, 0\.99\) is of AdamW, not of optim\.name='sgd'; leave it out",
    ),
    "what is not clipped": (
        dict(optim__clip_by="module", optim__clip=0.0),
        r"optim\.clip_by='module' needs a positive optim\.clip",
    ),
    "an entry without a value": (
        dict(optim__freeze="backbone: 1 epochs; head"),
        r"optim\.freeze='backbone: 1 epochs; head' has the entry 'head'; write \"GLOB: VALUE",
    ),
    "a part frozen for longer than the run": (
        dict(optim__freeze="head: 100%; backbone: 500 steps", duration="300 steps"),
        r"optim\.freeze='.*' freezes backbone for longer than the run, '300 steps'; use up to",
    ),
    "an entry of no duration": (
        dict(optim__freeze="backbone: ten"),
        r"optim\.freeze='backbone: ten' has 'ten' for 'backbone', which is no duration; write",
    ),
    "an entry of no number": (
        dict(optim__rates="backbone: low"),
        r"optim\.rates='backbone: low' has 'low' for 'backbone', which is no number",
    ),
    "a negative rate": (
        dict(optim__rates="head: -1"),
        r"optim\.rates='head: -1' has '-1' for 'head', which must be from 0 to 1000",
    ),
    "no hidden unit": (
        dict(model__width=6, model__mlp_ratio=0.1),
        r"model\.mlp_ratio=0\.1 of model\.width=6 leaves no hidden unit; use at least 0\.167",
    ),
    "more processes than cores can run": (
        dict(data__workers=10**12),
        r"data\.workers=1000000000000 is more than 16 for each of the \d+ cores there are; use 0",
    ),
    "warm-up as long as the run": (
        dict(duration="20 epochs"),
        r"duration='20 epochs' is too short for loss\.teacher_temp_warmup='30 epochs'; .*\"30%\"",
    ),
    "a share of itself": (dict(duration="50%"), r"duration='50%' is a share of itself"),
    "batch": (dict(batch_size=0), r"batch_size=0 must be from 1 to"),
    "weight decay": (
        dict(optim__weight_decay=-0.1),
        r"optim\.weight_decay=-0\.1 must be from 0 to",
    ),
    "momentum": (dict(teacher_momentum=1.5), r"teacher_momentum=1\.5 must be from 0 to 1"),
    "probability": (dict(data__flip=2.0), r"data\.flip=2\.0 must be from 0 to 1"),
    "one bad entry of several": (dict(data__blur=(1.0, 0.1, -0.5)), r"data\.blur=.* from 0 to 1"),
    "kernels": (
        dict(model__kernels="flash"),
        r"model\.kernels='flash' .*auto or cudnn or pallas or xla",
    ),
    "fused attention in float32": (
        dict(model__kernels="cudnn", dtype="float32"),
        r"model\.kernels='cudnn' needs dtype=\"bfloat16\", not 'float32'",
    ),
    "rematerialisation": (dict(model__remat="all"), r"model\.remat='all' .*none or dots or blocks"),
    "drop path": (dict(model__drop_path=1.0), r"model\.drop_path=1\.0"),
    "scale the wrong way round": (dict(data__global_scale=(1.0, 0.25)), r"data\.global_scale"),
    "scale past the image": (dict(data__local_scale=(0.5, 1.5)), r"data\.local_scale=.* to 1"),
    "hue": (dict(data__hue=0.7), r"data\.hue=0\.7"),
    "one view": (
        dict(data__global_views=1, data__local_views=0),
        r"data\.global_views=1 and data\.local_views=0 make one view",
    ),
    "no loss": (dict(loss__class_weight=0.0, loss__patch_weight=0.0), r"loss\.class_weight=0\.0"),
    "duration": (dict(optim__warmup="ten epochs"), r"optim\.warmup='ten epochs' is no duration"),
    "no duration": (dict(checkpoint__every=""), r"checkpoint\.every='' is no duration"),
    "infinite duration": (
        dict(duration="1e999 steps"),
        r"duration='1e999 steps' is longer than any run",
    ),
    "not a number": (dict(optim__lr=float("nan")), r"optim\.lr=nan is not finite"),
    "crop larger than its image": (
        dict(knn__resize=200),
        r"knn\.resize=200 is smaller than data\.global_size=\(224, 224\)",
    ),
    "entries that are no numbers": (
        dict(masks__ratios=("a", "b")),
        r"masks\.ratios=\('a', 'b'\) has the wrong type; it takes 2 numbers such as 0\.0,0\.3",
    ),
    "fractional pixels": (dict(data__local_size=(96.0, 96.0)), r"data\.local_size=.* wrong type"),
    "a truth value for a number": (dict(batch_size=True), r"batch_size=True .* a whole number"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_key_and_value(name):
    changes, pattern = MISTAKES[name]
    with pytest.raises(UserError) as error:
        config_check.check_config(config_with(**changes))
    assert re.match(pattern, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        dict(head__patch_prototypes=4096, head__shared=False, head__shared_teacher=False),
        dict(data__local_size=(90, 90), data__local_views=0),  # not made, so not looked at
        dict(data__local_views=0, high_res__last="100%", high_res__local_sides=(90,)),
        dict(
            model__arch="swin",
            model__patch_size=4,
            high_res__last="9%",
            high_res__local_sides=(96,),
        ),
        dict(knn__resize=200, knn__every=""),
        dict(data__channels=1, data__mean=(0.5,), data__std=(0.25,)),
        dict(masks__ratios=(0.5,), masks__variances=(0.5,)),  # 0 to 1, both allowed
        dict(optim__lr=1, optim__clip=0),  # whole numbers where numbers are wanted
    ],
)
def test_what_is_possible_passes(changes):
    config_check.check_config(config_with(**changes))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("optim.lrate", "optim.lr"),
        ("lr", "optim.lr"),
        ("model.drop_paht", "model.drop_path"),
        ("data.batch_size", "batch_size"),
    ],
)
def test_an_unknown_key_is_named_with_the_likeliest(key, hint):
    config = get_config()
    *sections, name = key.split(".")
    (config[sections[0]] if sections else config)[name] = 1.0
    with pytest.raises(UserError, match=rf"config\.{key} is no key .*did you mean .*{hint}"):
        config_check.check_config(config)


def test_a_missing_key_is_named():
    config = get_config()
    del config.optim.clip
    with pytest.raises(UserError, match=r"config\.optim\.clip is missing"):
        config_check.check_config(config)


# 10 epochs of 100 steps. The default's temperatures rise for 30 epochs.
PLAN = Plan(batch_size=8, steps_per_epoch=100, total_steps=1000)
SHORT = dict(duration="10 epochs", loss__teacher_temp_warmup="2 epochs", optim__warmup="1 epochs")


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        (
            dict(optim__warmup="10 epochs"),
            r"\(1000 steps\) is too short for optim\.warmup='10 epochs' \(1000 steps\)",
        ),
        (dict(loss__teacher_temp_warmup="11"), r"loss\.teacher_temp_warmup='11' \(1100 steps"),
        (
            dict(masks__start="9 epochs"),
            r"masks\.start='9 epochs' .*loss\.teacher_temp_warmup='2 epochs'",
        ),
        (dict(log_every="0.4 steps"), r"log_every='0\.4 steps' is less than one step"),
        (dict(knn__every="1 examples"), r"knn\.every='1 examples' is less than one step"),
        (dict(high_res__last="1 examples"), r"high_res\.last='1 examples' is less than one step"),
        (dict(high_res__last="1001 steps"), r"high_res\.last='1001 steps' is longer than the run"),
        (dict(checkpoint__every="0 epochs"), r"checkpoint\.every='0 epochs'"),
    ],
)
def test_durations_that_do_not_fit_the_run(changes, pattern):
    config_check.check_plan(config_with(**SHORT), PLAN)
    with pytest.raises(UserError, match=pattern):
        config_check.check_plan(config_with(**SHORT | changes), PLAN)


def test_all_that_a_run_is_too_short_for_is_told_with_what_would_do():
    """Of a published recipe, by the size of ImageNet: 5,004 steps an epoch."""
    config = config_with(duration="300 steps", batch_size=256, knn__every="0.1 steps")
    (short, every) = length_problems(flatten(config), 1_281_167)
    assert short == (
        "duration='300 steps' (300 steps) is too short for optim.warmup='10 epochs' (50040 steps), "
        "optim.freeze_last_layer='1 epochs' (5004 steps) and loss.teacher_temp_warmup='30 epochs' "
        '(150120 steps); lengthen it, or set optim.warmup="10%", optim.freeze_last_layer="1%" and '
        'loss.teacher_temp_warmup="30%"'
    )
    assert every.startswith("knn.every='0.1 steps' is less than one step")
    config.optim.update(warmup="10%", freeze_last_layer="1%")
    config.loss.teacher_temp_warmup = "30%"
    config.knn.every = "50%"
    assert length_problems(flatten(config), 1_281_167) == []


def test_a_batch_larger_than_the_data_is_told_with_the_largest_that_does():
    config = config_with(batch_size=4096, duration="10 epochs")
    too_large, too_short = length_problems(flatten(config), 1442, multiple=8)
    assert too_large == (
        "batch_size=4096 is larger than the data set (1442 images); the largest that does is 1440"
    )
    assert too_short.startswith("duration='10 epochs' (10 steps) is too short for optim.warmup=")
    (few,) = length_problems(flatten(config_with(**SHORT, batch_size=16)), 7, multiple=8)
    assert few.endswith("larger than the data set (7 images); use more images")


def test_a_run_has_no_more_steps_than_an_int32():
    config = config_with(**SHORT | dict(duration="1e6 epochs", batch_size=8))
    (problem,) = length_problems(flatten(config), 1_281_167)
    assert problem.startswith(
        "duration='1e6 epochs' is 160,145,000,000 steps; a run has at most 2,1"
    )


def test_a_key_that_is_wrong_hides_no_mistake_of_others():
    changes = dict(optim__lr=-1.0, batch_size=0, data__channels=1, knn__k=0, optim__warmup="ten")
    found = problems_at_hand(flatten(config_with(**changes, model__heads=5)), False)
    text = "; ".join(found)
    for part in ("optim.lr=-1", "batch_size=0", "data.mean=", "data.std=", "knn.k=0", "heads=5"):
        assert text.count(part) == 1
    assert "optim.warmup='ten' is no duration" in text


def test_once_something_is_wrong_data_at_hand_is_looked_at_for_more():
    changes = dict(SHORT, data__source="synthetic:100", knn__k=0, batch_size=101)

    def found(wrong=False, **others):
        return problems_at_hand(flatten(config_with(**changes | others)), wrong)

    assert [text.split("=")[0] for text in found()] == ["knn.k", "batch_size"]
    assert [text.split("=")[0] for text in found(True, knn__k=1)] == ["batch_size"]
    assert found(knn__k=1) == []  # the run looks itself
    assert found(data__source="folder:/nowhere")[-1].startswith("data.source='folder:/nowhere'")


def test_groups_of_images_divide_or_join_those_of_the_devices():
    changes = DINOV2 | dict(loss__koleo_weight=0.1, loss__koleo_group=48, batch_size=192)
    config = config_with(**changes, knn__batch_size=64)
    config_check.check_devices(config, 2)
    config_check.check_devices(config, 8)
    with pytest.raises(UserError, match=r"koleo_group=48 neither divides the 64 images .*use 64"):
        config_check.check_devices(config, 3)


def test_batches_divide_by_the_devices():
    config = config_with(batch_size=24, knn__batch_size=64)
    config_check.check_devices(config, 8)
    with pytest.raises(UserError, match="batch_size=24 is not divisible by the 16 devices; 32 is"):
        config_check.check_devices(config, 16)
    config.grad_accum_steps = 2
    with pytest.raises(UserError, match="grad_accum_steps=2 does not divide the 3 images of a bat"):
        config_check.check_devices(config, 8)
    config.grad_accum_steps = 3
    config_check.check_devices(config, 8)
    config.batch_size, config.grad_accum_steps, config.knn.batch_size = 32, 1, 20
    with pytest.raises(UserError, match=r"knn\.batch_size=20 is not divisible by the 8 devices"):
        config_check.check_devices(config, 8)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        (dict(mesh__fsdp=3), "mesh.fsdp=3 and mesh.tensor=1 do not divide the 8 devices"),
        (dict(mesh__data=4), "mesh.data=4 x mesh.fsdp=1 x mesh.tensor=1 is not 8, the devices"),
        (dict(mesh__tensor=8), "mesh.tensor=8 does not divide the 4 devices of a process"),
        (dict(mesh__tensor=4), "mesh.tensor=4 does not divide model.heads, 6"),
        (dict(mesh__tensor=2, head__prototypes=9, head__patch_prototypes=9), "head.prototypes, 9"),
    ],
    ids=str,
)
def test_the_mesh_fits_devices_processes_and_model(changes, pattern):
    config_check.check_devices(config_with(mesh__data=2, mesh__fsdp=2, mesh__tensor=2), 8, 2)
    with pytest.raises(UserError, match=re.escape(pattern)):
        config_check.check_devices(config_with(**changes), 8, 2)
