"""All keys of a pre-training config: default, meaning, range and kind.

`configs/*.py` start from `get_config()` and override. The config holds primary values only:
step counts and scaled learning rates are derived where they are used, so that an override on the
command line never leaves a stale one behind.

Ranges keep out what would be 0 or infinite in float32 and what nobody can mean. Sizes have wide
ones: whether there is the memory for them is another question (`memory`).
"""

from ml_collections import ConfigDict

from ibot_jax.config.flat import make_config
from ibot_jax.config.keys import Key, Kind
from ibot_jax.config.ranges import (
    Between,
    Blocks,
    ByGlob,
    Duration,
    Interval,
    OneOf,
    SomeOf,
    Window,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SHRINK_MARGIN = 2.0
MAX_PIXELS = 178_956_970  # above, Pillow takes an image for an attack
MAX_CHANNELS = 32

EXECUTED, REPORTED = Kind.EXECUTED, Kind.REPORTED

SIZE = Between(1, 10**15)  # bounded by memory, or not at all
DEPTH = Between(1, 256)  # deeper ones take for ever to compile
SIZE_OR_RULE = Between(1, 10**15, off=0)
COUNT = Between(0, 10**15)  # 0 is all, or none
WEIGHT = Between(1e-8, 1e4, off=0)
PERIOD = Between(1e-3, 1e9, off=0)
TEMPERATURE = Between(1e-4, 100)
SHARE = Between(0, 1)
SHARES = Between(0, 1, entries=3)  # of global view 1, of the other global views, of local views
PIXELS = Between(1, 10**9, entries=2)  # height, width
STRENGTH = Between(0, 10)

SECTIONS = {
    "": "its length, batch and start",
    "mesh": "over how many devices what is spread (see parallel/mesh.py)",
    "model": "the backbone of student and teacher",
    "head": "the projection heads",
    "loss": "the losses of class and patch tokens, and the teacher's targets",
    "frozen": "networks that no step changes",
    "gram": "gram anchoring (DINOv3)",
    "masks": "which patches the student does not see",
    "optim": "the optimiser",
    "lora": "adapters of low rank, in place of the backbone's matrices (see optim/lora.py)",
    "data": "images, and how views are made of them",
    "high_res": "views of other sizes in the last part of a run: high resolution, or several",
    "knn": "what is measured of the teacher, and how often",
    "probe": "a linear classifier, beside k-NN",
    "checkpoint": "what is saved",
}

KEYS = {
    "seed": Key(0, "of weights, order and views", Between(0, 2**32 - 1)),
    "duration": Key("100 epochs", "of the run", Duration(share=False)),
    "batch_size": Key(1024, "images a step, over all devices", Between(1, 10**7)),
    "grad_accum_steps": Key(
        1,
        "parts of a batch, one after the other: less memory, same update",
        Between(1, 10**6),
        EXECUTED,
    ),
    "method": Key(
        "ibot",
        "what is learned: the name of a file in methods/",
        OneOf(("ibot", "dino", "dinov2", "distillation")),
    ),
    "dtype": Key(
        "bfloat16",
        "of the forward and backward pass; float64 is for parity",
        OneOf(("bfloat16", "float32", "float64")),
    ),
    "init_from": Key(
        "",
        "weights that start student and teacher: a run, a checkpoint, an export, or a file or "
        "folder of another project",
    ),
    "init_head": Key(
        "load",
        "load takes heads and centers along where there are any; fresh leaves them there",
        OneOf(("load", "fresh")),
    ),
    "init_blocks": Key("", "of a vit's blocks there, those that become blocks 0, 1, ...", Blocks()),
    "init_channels": Key(
        "expand",
        "which of the channels there become these: expand adds their mean where there are fewer; "
        "or an entry for each, such as red,green,blue,mean,zero",
    ),
    "mesh.data": Key(
        0, "examples; 0 takes all devices that the others leave", Between(0, 10**6), EXECUTED
    ),
    "mesh.fsdp": Key(
        1,
        "examples, and the state in parts: for models that fill a device's memory",
        Between(1, 10**6),
        EXECUTED,
    ),
    "mesh.tensor": Key(1, "heads, hidden units, prototypes", Between(1, 10**6), EXECUTED),
    "model.arch": Key("vit", "kind of backbone", OneOf(("vit", "swin"))),
    "model.width": Key(384, "of a token; in a swin of the first stage, and then doubled", SIZE),
    "model.depth": Key(12, "blocks of a vit", DEPTH),
    "model.heads": Key(6, "of a vit's attention; divide the width", SIZE),
    "model.stage_depths": Key((2, 2, 6, 2), "blocks of a swin, by stage", DEPTH),
    "model.stage_heads": Key((3, 6, 12, 24), "of a swin's attention, by stage", SIZE),
    "model.window": Key(7, "tokens along a side of a swin's windows", SIZE),
    "model.ffn": Key(
        "mlp",
        "feed-forward network of a vit: mlp, or swiglu, gated and two thirds as wide",
        OneOf(("mlp", "swiglu")),
    ),
    "model.mlp_ratio": Key(
        4.0, "hidden units of the feed-forward networks over the width", Between(0.01, 100)
    ),
    "model.hidden_dim": Key(
        0, "hidden units of a vit's feed-forward networks; 0 goes by mlp_ratio", SIZE_OR_RULE
    ),
    "model.norm_eps": Key(1e-6, "added to the variance by the norms", Between(1e-15, 0.1)),
    "model.patch_size": Key(16, "side of a patch in pixels", Between(1, 10_000)),
    "model.registers": Key(0, "register tokens of a vit", Between(0, 10_000)),
    "model.positions": Key(
        "learned",
        "of a vit's patches: learned and added, or rotary: queries and keys are rotated",
        OneOf(("learned", "rotary")),
    ),
    "model.pos_offset": Key(
        0.1,
        "patches too many for which learned positions are resampled: 0.1 in DINO and iBOT",
        Between(0, 1),
    ),
    "model.pos_antialias": Key(False, "antialiasing of that resampling, where it shrinks"),
    "model.rope_base": Key(100.0, "of the periods of rotary positions", Between(1.01, 1e9)),
    "model.rope_min_period": Key(
        0.0, "their shortest period; with rope_max_period in place of the base", PERIOD
    ),
    "model.rope_max_period": Key(0.0, "and their longest", PERIOD),
    "model.rope_coordinates": Key(
        "separate",
        "go from -1 to 1 along both sides, or along the shorter (min) or longer (max) one",
        OneOf(("separate", "min", "max")),
    ),
    "model.rope_shift": Key(
        0.0, "added to them in training, at most, by block, step and kind of view", Between(0, 10)
    ),
    "model.rope_jitter": Key(1.0, "largest factor of either axis, likewise", Between(1, 100)),
    "model.rope_rescale": Key(1.0, "largest factor of both axes, likewise", Between(1, 100)),
    "model.rope_dtype": Key(
        "float32",
        "of the rotation; bfloat16 is that of DINOv3's training",
        OneOf(("float32", "bfloat16")),
    ),
    "model.qkv_bias": Key(
        "full",
        "of a vit's queries, keys and values: full; masked_key, not of keys; none",
        OneOf(("full", "masked_key", "none")),
    ),
    "model.qk_norm": Key(False, "norms of each head's queries and keys, in a vit"),
    "model.norm_kind": Key(
        "layer", "norms of a vit: layer (LayerNorm) or rms (RMSNorm)", OneOf(("layer", "rms"))
    ),
    "model.untie_class_norm": Key(
        False, "a last norm of their own for class token and registers, in a vit"
    ),
    "model.untie_local_norm": Key(False, "another one for those of local views, in training"),
    "model.drop_path": Key(
        0.1, "stochastic depth of the last block; the first has 0", Between(0, 0.99)
    ),
    "model.drop_path_kind": Key(
        "linear",
        "linear, by view; uniform, DINOv2's: the same in all blocks, and by view a fixed number "
        "of the batch",
        OneOf(("linear", "uniform")),
    ),
    "model.layer_scale": Key(
        0.0, "initial LayerScale gain; 0 builds the blocks without it", Between(1e-8, 100, off=0)
    ),
    "model.kernels": Key(
        "auto",
        "of blocks: cudnn (GPU), pallas (TPU), xla; auto is the device's",
        OneOf(("auto", "cudnn", "pallas", "xla")),
        EXECUTED,
    ),
    "model.remat": Key(
        "none",
        "kept for the backward pass: all (none), linear outputs (dots), a block's input (blocks)",
        OneOf(("none", "dots", "blocks")),
        EXECUTED,
    ),
    "model.scan_blocks": Key(
        False, "compile one block, not all of them: quicker to start, deep models", kind=EXECUTED
    ),
    "head.hidden_dim": Key(2048, "hidden units of its MLP", SIZE),
    "head.bottleneck_dim": Key(256, "of the vectors that meet the prototypes", SIZE),
    "head.prototypes": Key(8192, "outputs for the class token, K", Between(2, 10**15)),
    "head.patch_prototypes": Key(
        8192,
        "outputs for patch tokens; a shared last layer needs the same number",
        Between(2, 10**15),
    ),
    "head.act": Key("gelu", "activation", OneOf(("gelu", "relu"))),
    "head.norm_last_layer": Key(
        True, "keep the prototypes' norms as they are, at 1, where they are parameters of their own"
    ),
    "head.shared": Key(True, "one last layer for class and patch tokens, in the student"),
    "head.shared_teacher": Key(True, "and in the teacher"),
    "head.separate": Key(
        False, "a whole head of their own for patch tokens, in both (DINOv2); none is shared then"
    ),
    "head.patch_hidden_dim": Key(
        0, "hidden units of a separate head of patch tokens; 0 is head.hidden_dim", SIZE_OR_RULE
    ),
    "head.patch_bottleneck_dim": Key(
        0, "of its vectors that meet the prototypes; 0 is head.bottleneck_dim", SIZE_OR_RULE
    ),
    "head.weight_norm": Key(
        True, "prototypes are directions and norms; False takes plain weights (DINOv3)"
    ),
    "loss.class_weight": Key(1.0, "of the loss of class tokens", WEIGHT),
    "loss.patch_weight": Key(1.0, "of the loss of masked patches", WEIGHT),
    "loss.visible_weight": Key(
        0.0, "of visible patches beside the masked ones in that loss; 1 is iBOT++", WEIGHT
    ),
    "loss.kernel_weight": Key(
        0.0, "of patch-kernel alignment: patches as alike as they are for the teacher", WEIGHT
    ),
    "loss.student_temp": Key(0.1, "temperature of the student's softmax", TEMPERATURE),
    "loss.teacher_temp_start": Key(0.04, "of the teacher's class tokens at first", TEMPERATURE),
    "loss.teacher_temp": Key(0.07, "and after its warm-up", TEMPERATURE),
    "loss.teacher_patch_temp_start": Key(
        0.04, "of the teacher's patch tokens at first", TEMPERATURE
    ),
    "loss.teacher_patch_temp": Key(0.07, "and after its warm-up", TEMPERATURE),
    "loss.teacher_temp_warmup": Key(
        "30 epochs",
        "in which the teacher's temperatures rise, by epochs if it is in epochs, else by steps",
        Duration(),
    ),
    "loss.targets": Key(
        "centering",
        "the teacher's outputs become targets by centers, or by sinkhorn, with which each batch "
        "uses all prototypes alike; of dinov2",
        OneOf(("centering", "sinkhorn")),
    ),
    "loss.center_momentum": Key(0.9, "of the moving average of the teacher's outputs", SHARE),
    "loss.sinkhorn_turns": Key(3, "of scaling prototypes and tokens", Between(1, 100)),
    "loss.local_weight": Key(
        1.0, "factor of the pairs with a local view in the loss of class tokens", WEIGHT
    ),
    "loss.koleo_weight": Key(
        0.0, "of KoLeo, which spreads the class tokens of each global view; of dinov2", WEIGHT
    ),
    "loss.koleo_group": Key(
        0,
        "consecutive images of a batch among which neighbours are sought; 0 is the whole batch",
        SIZE_OR_RULE,
    ),
    "loss.koleo_nearest": Key(
        1, "neighbours that each image is pushed away from", Between(1, 1000)
    ),
    "loss.max_logits": Key(
        2**27, "tokens x prototypes at a time on a device: bounds memory, not K", SIZE, EXECUTED
    ),
    "frozen.teacher": Key(
        "",
        "what the student of method=distillation learns from: a run, an export with its head, or "
        "another project's file of backbone and head",
    ),
    "frozen.gram": Key(
        "",
        "the first gram teacher: a run, an export, or another project's file; '' takes the teacher "
        "as it is at gram.start",
    ),
    "gram.weight": Key(
        0.0, "of gram anchoring: patches as alike as they are for the gram teacher", WEIGHT
    ),
    "gram.teacher": Key(
        "earlier",
        "whose likenesses: the gram teacher's, which is the teacher as it once was (earlier), or "
        "the teacher's of this step (current)",
        OneOf(("earlier", "current")),
    ),
    "gram.start": Key("0 epochs", "no gram loss before", Duration()),
    "gram.every": Key(
        "",
        "from there on between updates, by which the gram teacher becomes the teacher; '' keeps "
        "the first one",
        Duration(never=True),
    ),
    "gram.updates": Key(0, "how many at most; 0 is any number", COUNT),
    "gram.scale": Key(
        2.0, "how many times larger a global view is for the gram teacher", Between(1, 16)
    ),
    "gram.colors": Key(False, "change the colours of these views as those of the global views"),
    "gram.level": Key(
        "image",
        "likenesses between patches of a view (image), or of all views that a device sees at a "
        "time (batch)",
        OneOf(("image", "batch")),
    ),
    "gram.negatives": Key(
        "keep",
        "negative likenesses: kept; 0 instead, of both (drop) or of the gram teacher's alone "
        "(drop_teacher)",
        OneOf(("keep", "drop", "drop_teacher")),
    ),
    "gram.tokens": Key(
        "all",
        "patches that are compared, by the student's masks; but all need gram.level=batch",
        OneOf(("all", "masked", "unmasked")),
    ),
    "gram.normalize": Key(True, "likenesses are cosines, not products"),
    "gram.antialias": Key(False, "antialiasing where the gram teacher's patches are made fewer"),
    "masks.kind": Key(
        "block",
        "shape: iBOT's block and random, of which each view draws its share; dinov2 and dinov3 "
        "deal shares out over a batch, dinov3 with exact counts",
        OneOf(("block", "random", "dinov2", "dinov3")),
    ),
    "masks.ratios": Key((0.0, 0.3), "each global view draws one of these shares ...", SHARE),
    "masks.variances": Key(
        (0.0, 0.2), "... plus uniform noise within that entry's variance", SHARE
    ),
    "masks.share": Key(
        0.5, "of a batch's global views that are masked, by kinds dinov2 and dinov3", SHARE
    ),
    "masks.range": Key(
        (0.1, 0.5),
        "of the shares of patches that these mask, which climb in equal steps",
        Interval(0, 1),
    ),
    "masks.shift": Key(
        False, "roll these masks by a random number of patches: all places are masked as often"
    ),
    "masks.start": Key(
        "0 epochs", "no masks before; the patch temperature waits as long", Duration()
    ),
    "optim.name": Key("adamw", "of the optimiser", OneOf(("adamw", "sgd", "lars"))),
    "optim.lr": Key(
        5e-4,
        "learning rate for 256 images a step; scaled by batch_size / 256",
        Between(1e-10, 100),
    ),
    "optim.lr_scaling": Key(
        "linear",
        "by that share (linear), by its square root (sqrt; DINOv2), or not at all (none)",
        OneOf(("linear", "sqrt", "none")),
    ),
    "optim.min_lr": Key(1e-6, "at the end of the schedule, not scaled", Between(0, 100)),
    "optim.warmup": Key("10 epochs", "in which the learning rate rises from 0", Duration()),
    "optim.warmup_end": Key(
        "included",
        "the warm-up's last step has the full rate (included), or the next one has it (excluded)",
        OneOf(("included", "excluded")),
    ),
    "optim.schedule": Key(
        "cosine",
        "how the learning rate falls after its warm-up; constant does so in optim.cooldown alone",
        OneOf(("cosine", "linear", "constant")),
    ),
    "optim.schedule_end": Key(
        "excluded",
        "schedules of rate, decay and momentum reach their ends at the last step (included), or "
        "one step after the run (excluded)",
        OneOf(("included", "excluded")),
    ),
    "optim.cooldown": Key(
        "0%", "at the end of a constant rate, in which it falls in a straight line", Duration()
    ),
    "optim.trunc_extra": Key(
        0.0,
        "share of themselves that cosines are longer than the run, whose end cuts them and "
        "stretches them to end there (DINOv3)",
        Between(1e-3, 1000, off=0),
    ),
    "optim.betas": Key((0.9, 0.999), "of AdamW's moments", Between(0, 0.999_999, entries=2)),
    "optim.eps": Key(1e-8, "of AdamW", Between(1e-20, 1)),
    "optim.weight_decay": Key(0.04, "at first", Between(0, 10)),
    "optim.weight_decay_end": Key(0.4, "at the end of a cosine", Between(0, 10)),
    "optim.clip": Key(
        3.0,
        "largest norm of a gradient; 0 turns clipping off",
        Between(1e-6, 1e6, off=0),
    ),
    "optim.clip_by": Key(
        "tensor",
        "what has that norm: each tensor; backbone and heads apart (module; DINOv2); or all "
        "gradients together (global)",
        OneOf(("tensor", "module", "global")),
    ),
    "optim.layer_decay": Key(
        1.0,
        "factor of the learning rate from each block to the one below it; heads have the full one",
        Between(0.01, 1),
    ),
    "optim.rates": Key(
        "",
        "more factors of the learning rate, by name: "
        '"backbone: 0.1; backbone/patch_embed: 0.02"; the last entry that names a parameter counts',
        ByGlob(Between(0, 1000)),
    ),
    "optim.freeze": Key(
        "",
        "how long parameters stay as they are, by name: "
        '"backbone: 1 epochs; backbone/blocks_[0-5]: 100%"; the last entry counts, likewise',
        ByGlob(Duration()),
    ),
    "optim.freeze_last_layer": Key(
        "1 epochs", "in which the prototypes stay as they are", Duration()
    ),
    "optim.freeze_last_layer_by": Key(
        "skipping",
        "how: skipping leaves out moments and decay, too; rate is a learning rate of 0 (DINOv2)",
        OneOf(("skipping", "rate")),
    ),
    "lora.rank": Key(0, "of the adapters; 0 for none", Between(1, 10**6, off=0)),
    "lora.alpha": Key(16.0, "over the rank, the factor of their products", Between(1e-4, 1e6)),
    "lora.targets": Key(
        "attn/* mlp/*",
        "globs of the layers that have one: their paths in the backbone, or ends of these",
    ),
    "teacher_momentum": Key(0.996, "of the teacher's moving average, at first", SHARE),
    "teacher_momentum_end": Key(1.0, "at the end of a cosine", SHARE),
    "data.source": Key(
        "",
        "folder:PATH, tar:PATTERN, zip:PATTERN, parquet:PATTERN, arrayrecord:PATTERN, "
        "list:PATTERN, hf:NAME, tfds:NAME, digits, synthetic",
    ),
    "data.mixture": Key(
        "",
        "several sources to learn from, SHARE: SOURCE; SHARE: SOURCE; the teacher is measured on "
        "data.source then",
    ),
    "data.mixture_epoch": Key(
        0, "images of an epoch of a mixture; 0 is as many as its sources have", COUNT
    ),
    "data.split": Key(
        "train",
        "a subfolder, or TFDS split syntax such as train[:10%]; train is all of a folder without "
        "splits",
    ),
    "data.data_dir": Key(
        "",
        "where TFDS keeps its data, and others what lies where in their files; '' are defaults",
        kind=EXECUTED,
    ),
    "data.max_per_class": Key(
        0, "keep the first so many images of each class, by name; 0 keeps all", COUNT
    ),
    "data.channels": Key(
        3, "grey, grey and alpha, RGB, RGBA; more are bands", Between(1, MAX_CHANNELS)
    ),
    "data.bands": Key(
        False, "2 to 4 channels are bands, too: neither alpha nor colours, and never converted"
    ),
    "data.range": Key(
        0.0,
        "number that is white in images of more than 8 bits; 0 takes 65535, and no floats",
        Between(1e-6, 1e15, off=0),
    ),
    "data.clip_percentiles": Key(
        (0.0, 0.0),
        "such as 1,99: of the numbers of each image and channel, those that become black and "
        "white, in place of the range; 0,0 takes the range",
        Interval(0, 100),
    ),
    "data.window": Key(
        (0.0, 0.0),
        "centre and width of the numbers of DICOM files that are shown; 0,0 takes their own",
        Window(1e9),
    ),
    "data.exif": Key(False, "turn images as their EXIF orientation says, unlike the original"),
    "data.max_pixels": Key(
        MAX_PIXELS, "of an image; larger ones count as images that cannot be read", SIZE
    ),
    "data.mean": Key(IMAGENET_MEAN, "of pixels in 0..1; one entry for each channel", SHARE),
    "data.std": Key(
        IMAGENET_STD, "of pixels in 0..1; one entry for each channel", Between(1e-3, 10)
    ),
    "data.global_views": Key(2, "large views of an image", Between(1, 1000)),
    "data.global_size": Key((224, 224), "their height and width in pixels", PIXELS),
    "data.global_scale": Key((0.25, 1.0), "their area over that of the image", Interval(1e-4, 1)),
    "data.local_views": Key(10, "small views of an image", Between(0, 1000)),
    "data.local_size": Key((96, 96), "their height and width in pixels", PIXELS),
    "data.local_scale": Key((0.05, 0.25), "their area over that of the image", Interval(1e-4, 1)),
    "data.aspect": Key((3 / 4, 4 / 3), "width over height of what is cut out", Interval(0.01, 100)),
    "data.flip": Key(0.5, "probability of mirroring", SHARE),
    "data.jitter": Key(0.8, "probability of changed colours; bands change alike", SHARE),
    "data.brightness": Key(0.4, "largest change", STRENGTH),
    "data.contrast": Key(0.4, "largest change", STRENGTH),
    "data.saturation": Key(0.2, "largest change, of RGB alone", STRENGTH),
    "data.hue": Key(0.1, "largest change, of a circle, of RGB alone", Between(0, 0.5)),
    "data.gray": Key(0.2, "probability of grey, of RGB alone", SHARE),
    "data.blur": Key(
        (1.0, 0.1, 0.5),
        "probability, of global view 1, of the other global views, of local views",
        SHARES,
    ),
    "data.blur_radius": Key((0.1, 2.0), "pixels", Interval(1e-3, 100)),
    "data.solarize": Key((0.0, 0.2, 0.0), "probability, of the same three kinds of view", SHARES),
    "data.max_bad_share": Key(
        0.01, "stop when more than this share of images cannot be read", SHARE, EXECUTED
    ),
    "data.workers": Key(0, "processes that make views; 0 takes one for each core", COUNT, EXECUTED),
    "data.augment": Key(
        "device", "who changes colours: the accelerator, or the host", OneOf(("device", "host"))
    ),
    "data.stall_seconds": Key(
        300.0,
        "of waiting for input or peers before a warning; 0 never warns",
        Between(0, 1e7),
        EXECUTED,
    ),
    "data.resize": Key(
        "simd",
        "antialiased bicubic; pillow is slower, and the original's bytes",
        OneOf(("simd", "pillow")),
    ),
    "data.shrink_margin": Key(
        SHRINK_MARGIN,
        "simd decodes images smaller where each crop stays so many times its view's size; 1 is "
        "quicker and softens views, 0 never does it",
        Between(1, 1000, off=0),
    ),
    "high_res.last": Key(
        "",
        "how long that part is; 100% is the whole run, '' turns it off",
        Duration(never=True),
    ),
    "high_res.global_sides": Key(
        (512,),
        "shorter side of global views there, in pixels; of several a batch has one",
        Between(1, 10**9),
    ),
    "high_res.local_sides": Key(
        (112,), "that of local views, for each of these", Between(1, 10**9)
    ),
    "high_res.shares": Key(
        (1.0,), "of the batches that have each, whatever their sum", Between(1e-6, 1e6)
    ),
    "knn.every": Key(
        "10 epochs",
        "between evaluations of the teacher; '' turns them off",
        Duration(never=True),
        REPORTED,
    ),
    "knn.train_split": Key("train", "the images to search", kind=REPORTED),
    "knn.test_split": Key(
        "auto",
        "the images to classify; auto finds test, val or validation, and leaves k-NN out if there "
        "is none",
        kind=REPORTED,
    ),
    "knn.old_source": Key(
        "",
        "labelled images to measure the teacher on besides, such as those that the weights of "
        "init_from learned from: folder:PATH or tfds:NAME, its train and auto splits",
        kind=REPORTED,
    ),
    "knn.max_train_per_class": Key(0, "images of each class; 0 takes all", COUNT, REPORTED),
    "knn.max_test_per_class": Key(0, "images of each class; 0 takes all", COUNT, REPORTED),
    "knn.max_unlabelled": Key(
        10_000, "training images, where they have no labels; 0 takes all", COUNT, REPORTED
    ),
    "knn.resize": Key(
        256,
        "shorter side in pixels, then a central crop of data.global_size (of one that is not "
        "square: in proportion to it, and its longer side)",
        Between(1, 10**9),
        REPORTED,
    ),
    "knn.k": Key(20, "neighbours", Between(1, 10**9), REPORTED),
    "knn.temperature": Key(0.07, "of their votes", TEMPERATURE, REPORTED),
    "knn.batch_size": Key(256, "images at a time, over all devices", Between(1, 10**7), REPORTED),
    "probe.l2": Key(
        1e-5,
        "penalty of the linear classifier, see evaluate/probes/softmax_regression.py",
        Between(1e-12, 1e6),
        REPORTED,
    ),
    "probe.max_steps": Key(
        300,
        "of the solver, from zero at each evaluation; 0 turns the probe off",
        Between(0, 10**9),
        REPORTED,
    ),
    "checkpoint.every": Key("1 epochs", "between saves", Duration(), REPORTED),
    "checkpoint.keep": Key(
        3, "the latest so many; the best by k-NN is kept besides", SIZE, REPORTED
    ),
    "log_every": Key("50 steps", "between reports of a step", Duration(), REPORTED),
    "log_to": Key(
        "",
        "who is told besides metrics.jsonl and TensorBoard, with spaces between",
        SomeOf(("wandb", "mlflow", "trackio")),
        REPORTED,
    ),
}


def get_config() -> ConfigDict:
    """Returns the default configuration: ViT-S/16 with the published settings, no data source.

    `KEYS` says what each key means and takes.
    """
    return make_config(KEYS)
