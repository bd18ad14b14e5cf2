"""UperNet on a whole backbone: what is trained, how fast, and the command on made scenes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from runs import save_run
from scenes import write_voc
from tiny import tiny_config, tiny_plan

from ibot_jax import load, predict
from ibot_jax.convert import __main__ as convert
from ibot_jax.evaluate import __main__ as command
from ibot_jax.finetune import upernet_task
from ibot_jax.finetune.upernet_training import Segmenter
from ibot_jax.runs.training import make_init
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model

CROP = 32


@pytest.fixture(scope="module")
def run_of_three_blocks(tmp_path_factory):
    config = tiny_config(data__source="folder:none", model__depth=3, seed=7)
    state = make_init(config, tiny_plan(config))(jax.random.key(config.seed))
    return str(save_run(tmp_path_factory.mktemp("runs") / "mine", config, state))


@pytest.fixture(scope="module")
def segmenter(run_of_three_blocks):
    model, params = load(run_of_three_blocks)
    made = Segmenter.of(model, CROP, (0, 0, 1, 2), 3, normalized=True)
    return made, made.start(params, model.config.data.global_size, jax.random.key(0)), model


def test_positions_are_resampled_once_to_the_crops(segmenter):
    made, (params, _), model = segmenter
    rows, columns = model.geometry.grid((CROP, CROP))
    assert params["backbone"]["pos_embed"].shape[1] == 1 + rows * columns
    assert tuple(made.model.config.data.global_size) == (CROP, CROP)
    assert tuple(model.config.data.global_size) != (CROP, CROP)  # the model itself is as it was


def test_logits_have_four_times_the_cells_of_the_backbone(segmenter):
    made, learned, model = segmenter
    images = np.random.default_rng(0).integers(0, 256, (2, CROP, CROP, 3), dtype=np.uint8)
    rows, columns = model.geometry.grid((CROP, CROP))
    found = jax.eval_shape(made.logits, learned, images)
    assert found.shape == (2, 4 * rows, 4 * columns, 3)


def test_stages_of_a_swin_are_taken_as_they_are():
    config = tiny_config(model__arch="swin", data__global_size=(32, 32))
    config.model.update(
        width=8, stage_depths=(1, 1, 1, 1), stage_heads=(1, 1, 2, 4), window=2, patch_size=4
    )
    model, params = untrained(Model(config, "random"))
    made = Segmenter.of(model, CROP, (0, 1, 2, 3), 3, normalized=True)
    assert made.upernet.scales is None and made.upernet.normalized == (True, True, True, False)
    start = jax.eval_shape(lambda key: made.start(params, (32, 32), key), jax.random.key(0))
    widths = [start[0]["upernet"][f"norm_{n}"]["scale"].shape for n in range(3)]
    assert widths == [(8,), (16,), (32,)] and "norm_3" not in start[0]["upernet"]
    images = jnp.zeros((1, CROP, CROP, 3), jnp.uint8)
    assert jax.eval_shape(made.logits, start, images).shape == (1, 8, 8, 3)


def test_stochastic_depth_skips_branches(segmenter):
    """At a rate of 1 the last block adds nothing; none is skipped of the first."""
    made, (params, _), _ = segmenter
    backbone = made.model.backbone
    images = np.random.default_rng(0).normal(size=(2, CROP, CROP, 3)).astype(np.float32)
    gains = np.ones((2, 3, 2), np.float32)
    gains[:, 2] = 0

    def layers(gains):
        variables = {"params": params["backbone"]}
        found = backbone.apply(variables, images, (0, 1, 2), False, gains, method="layers")
        return [tokens.patches for tokens in found]

    skipped, whole = layers(gains), layers(None)
    np.testing.assert_allclose(skipped[0], whole[0], atol=1e-6)
    np.testing.assert_allclose(skipped[2], whole[1], atol=1e-6)
    assert np.abs(whole[2] - whole[1]).max() > 1e-3


def test_the_original_protocol():
    protocol = upernet_task.PROTOCOL
    assert list(protocol.blocks(12)) == [4, 6, 8, 12]
    assert (protocol.steps, protocol.warmup, protocol.crop, protocol.stride) == (
        *(160_000, 1500),
        *(512, 341),
    )
    assert (protocol.lr, protocol.layer_decay, protocol.drop_path) == (8e-5, 0.65, 0.1)
    assert protocol.weight_decay == 0.05 and protocol.schedule == "linear"


TINY = ["--size=32", "--crop=32", "--stride=16", "--ratios=1,1.5", "--batch-size=8"]


@pytest.mark.slow
def test_the_command_finds_planted_classes(tmp_path, run_of_three_blocks):
    voc = write_voc(tmp_path / "VOC2012")
    flags = [f"--from={run_of_three_blocks}", f"--data={voc}", f"--out={tmp_path / 'out'}"]
    flags += ["--layout=voc", *TINY, "--steps=40", "--warmup=4", "--lr=0.005"]
    assert command.main(["upernet", *flags]) == 0
    report = json.loads((tmp_path / "out/upernet.json").read_text())
    assert report["settings"]["blocks"] == [1, 1, 2, 3]
    assert report["metrics"]["miou"] > 80
    (kept,) = (tmp_path / "out").glob("upernet-*.npz")
    before = kept.stat().st_mtime_ns
    assert command.main(["upernet", *flags, "--stride=32"]) == 0  # which asks for no training
    assert kept.stat().st_mtime_ns == before
    source = f"--from={tmp_path / 'out/upernet.json'}"
    assert (
        predict.main([source, f"--data={voc / 'JPEGImages'}", f"--out={tmp_path / 'found'}"]) == 0
    )
    mask = np.asarray(Image.open(tmp_path / "found/masks/2007_val0.png"))
    truth = np.asarray(Image.open(voc / "SegmentationClass/2007_val0.png"))
    assert (mask == truth)[2:].mean() > 0.9  # the first rows are not annotated
    assert convert.main([source, f"--out={tmp_path / 'x'}", "--to=stablehlo"]) == 0
    program = jax.export.deserialize(bytearray((tmp_path / "x").read_bytes()))
    image = np.asarray(Image.open(voc / "JPEGImages/2007_val0.jpg"))
    alone = np.asarray(program.call(image[None, :, :32])["classes"][0])
    assert (alone == truth[:, :32])[2:].mean() > 0.9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--blocks=1,2,3"], "--blocks=1,2,3 are 3, and UperNet takes 4"),
        (["--blocks=1,2,3,4"], "--blocks=1,2,3,4 is not within the 3 blocks of the model"),
        (["--batch-size=16"], "--batch-size=16 is more than the 11 training images"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, capsys, run_of_three_blocks, flags, message):
    voc = write_voc(tmp_path / "VOC2012")
    common = [f"--from={run_of_three_blocks}", f"--data={voc}", f"--out={tmp_path / 'out'}"]
    assert command.main(["upernet", *common, "--layout=voc", *TINY, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
