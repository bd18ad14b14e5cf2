"""What decoding smaller costs in sharpness: known of stripes, and measured of a large picture."""

import numpy as np
import pytest
from PIL import Image
from tiny import example_settings, tiny_config

from ibot_jax.data.sources.opening import open_source
from ibot_jax.tools import bench
from ibot_jax.tools.benches.shrink import measure, sharpness


def test_sharpness_is_that_of_the_finest_detail():
    """Stripes of one pixel change by 200 along one axis; of four pixels, a quarter as often."""
    columns = np.arange(64)
    fine, coarse = (np.tile(200 * (columns // width % 2), (64, 1)) for width in (1, 4))
    gradients, bands = zip(
        *(sharpness(np.repeat(grey[..., None], 3, axis=-1)) for grey in (fine, coarse)), strict=True
    )
    assert gradients == pytest.approx((100, 200 * 15 / 63 / 2))
    assert bands[0] > 100 * bands[1]


def test_a_margin_of_one_softens_views_and_zero_is_the_whole_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.jpg", quality=95)
    scale = dict(data__global_scale=(0.9, 1.0), data__local_scale=(0.9, 1.0))
    settings = example_settings(tiny_config(**scale))
    source = open_source(f"folder:{tmp_path}", "train")
    title, *rows = measure(source, **settings, margins=(0.0, 1.0, 1000.0), number=1)
    names = [name for name in title.split("  ") if name]
    values = [dict(zip(map(str.strip, names), row.split(), strict=True)) for row in rows]
    assert [row["decoded smaller"] for row in values] == ["0.0%", "100.0%", "0.0%"]
    assert float(values[1]["top band"]) < 0.99 < float(values[2]["top band"])


def test_a_margin_that_is_no_number_is_a_mistake(capsys):
    flags = ["--config=configs/digits.py", "--margins=1,two"]
    assert bench.main(["shrink", *flags]) == 2
    assert "--margins=1,two are no numbers" in capsys.readouterr().err
