"""The report of a run: what is in it, and that a browser shows it at any width, offline."""

import base64
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
from browser import browser
from PIL import Image
from planted import save_images
from runs import make_workdir, save_run
from tiny import tiny_config, tiny_plan

from ibot_jax.config.flat import flatten
from ibot_jax.runs.training import make_init
from ibot_jax.visualize import report
from ibot_jax.visualize.__main__ import main

pytestmark = pytest.mark.slow

# A resumed, evaluated run, with a metric that no version of this project has yet.
ROWS = [
    {"step": 0, "epoch": 0.0, "knn_top1": 26.9, "knn_top5": 74.65, "probe_top1": 20.0},
    *(
        {
            "step": 5 * i,
            "epoch": i / 2,
            "loss": 8 - i / 10,
            "class_loss": 5.0,
            "patch_loss": None if i == 3 else 3 - i / 10,
            "teacher_entropy": 2.0,
            "student_entropy": 2.2,
            "teacher_mean_entropy": 2.3,
            "images_per_second": 200.0 + i,
            "shoe_size": 40.0 + i,
        }
        for i in range(1, 8)
    ),
    {
        "step": 35,
        "epoch": 3.5,
        "knn_top1": 44.8,
        "knn_top5": 90.0,
        "feature_rank": 12.5,
    },
]


def write_run(folder, source, *, checkpoint):
    config = tiny_config(
        data__source=source, knn__test_split="train", knn__resize=16, model__depth=1
    )
    if not checkpoint:
        return str(make_workdir(folder, config))
    state = make_init(config, tiny_plan(config))(jax.random.key(0))
    workdir = save_run(folder, config, state, knn_top1=44.8)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(workdir)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the workdir, the report's path, and its text."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(5)]
    data = save_images(folder / "data", *images)
    workdir = write_run(folder / "my run", f"folder:{data}", checkpoint=True)
    out = folder / "report.html"
    assert main(["report", f"--from={workdir}", f"--out={out}", "--number=2"]) == 0
    return workdir, out, out.read_text()


def test_the_page_tells_the_run(run):
    _, _, text = run
    for words in (
        "<h1>my run: an iBOT run</h1>",
        "<dt>k-NN</dt><dd>44.8 %<small>26.9 % at first, best 44.8 %</small>",
        "<dt>Throughput</dt><dd>204<small>images/s, median</small>",
        "<dt>Rank</dt><dd>12.5<small>of 16</small>",
        "uniform: ln 12",
        "k-NN: 26.9 at epoch 0, 44.8 at epoch 3.5",
        "linear probe: 20 at epoch 0",
        "patch: 2.9 at epoch 0.5, 2.3 at epoch 3.5",
        "Shoe size: 41 at epoch 0.5, 47 at epoch 3.5",
        "<td>16</td><td>384</td>",  # model.width and its default
    ):
        assert words in text, words
    assert "Mood" not in text  # no number


def test_the_pictures_are_in_the_page_with_words_for_those_who_do_not_see_them(run):
    _, _, text = run
    images = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]+)"', text)
    assert len(images) == text.count("<img") == 4
    alts = [alt for _, alt in images]
    assert alts[0] == "Attention maps of 2 images." and "nine images" in alts[3]
    for data, _ in images:
        assert np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).std() > 10


def test_nothing_in_the_page_is_elsewhere(run):
    _, _, text = run
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert not re.findall(r"@import|url\(", text)


def test_a_browser_shows_it_at_any_width_in_light_and_dark(run):
    """No errors, no requests, nothing wider than the window, legible contrast, values on hover."""
    _, out, _ = run
    with browser() as page:
        for width, dark in ((1200, False), (390, True), (390, False)):
            page.open(out, width=width, dark=dark)
            assert page.complaints() == []
            assert page.requests() == [out.as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
            assert page.evaluate(loaded)
            small = "Math.min(...[...document.querySelectorAll('svg text')].map("
            small += "t => t.getBoundingClientRect().height))"
            assert page.evaluate(small) >= 10  # pixels
            for selector in ("h1", "header p", ".chart li", "td"):
                assert contrast(page, selector) >= 4.5, (selector, dark)
        corner = page.evaluate(
            "(() => { const b = document.querySelector('svg[data-chart]').getBoundingClientRect();"
            "return [b.right - 20, b.top + 20] })()"
        )
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=corner[0], y=corner[1])
        tip = page.evaluate("document.querySelector('.tip').innerText")
        assert tip.split("\n") == ["epoch 3.5", "k-NN 44.8", "linear probe 20"]
        assert page.complaints() == []


def contrast(page, selector):
    """Returns the contrast of an element's text to the page, as WCAG 2 defines it."""
    style = "getComputedStyle(document.querySelector({!r})).{}"
    light, dark = sorted(
        (
            luminance(page.evaluate(style.format(selector, "color"))),
            luminance(page.evaluate(style.format("body", "backgroundColor"))),
        ),
        reverse=True,
    )
    return (light + 0.05) / (dark + 0.05)


def luminance(color):
    values = np.array([int(number) for number in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_a_run_whose_data_are_gone_has_a_page_without_pictures(run, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(run[0], moved)
    recorded = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(recorded | {"data.source": "folder:gone"}))
    assert main(["report", f"--from={moved}", f"--out={tmp_path}/page.html"]) == 0
    assert "no pictures: " in capsys.readouterr().err
    text = (tmp_path / "page.html").read_text()
    assert "folder:gone" in text and "--data names others" in text and "<img" not in text


def test_a_run_without_checkpoint_still_has_its_page(run, tmp_path, capsys):
    workdir, _, _ = run
    fresh = write_run(tmp_path / "fresh", "folder:nowhere", checkpoint=False)
    out = tmp_path / "fresh.html"
    assert main(["report", f"--from={fresh}", f"--out={out}"]) == 0
    assert "there is no complete checkpoint yet" in out.read_text()
    assert "metrics.jsonl holds nothing yet" in out.read_text()
    capsys.readouterr()
    for wrong, words in (
        ([f"--from={tmp_path}", f"--out={out}"], "is no run's workdir"),
        ([f"--from={workdir}", f"--out={tmp_path}/report.png"], "end it in .html"),
        ([f"--from={workdir}", f"--out={out}", f"--data={tmp_path}/gone"], "gone does not exist"),
    ):
        assert main(["report", *wrong]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1


def test_accuracies_on_training_images_are_told():
    row = {"step": 5, "epoch": 1.0, "knn_top1": 100.0, "knn_shared_images": 1200}
    config = {"duration": "1 epochs"}
    assert report.facts([row], config)[-1] == (
        "Beware",
        "1,200 test images",
        "are training images, too: accuracies are no measure of unknown images",
    )
    del row["knn_shared_images"]
    assert "Beware" not in [name for name, *_ in report.facts([row], config)]


def test_larger_views_at_the_end_are_told():
    config = flatten(tiny_config())
    assert "at 16 x 16 pixels; 8 images" in report.describe(config)
    config |= {"high_res.last": "8%", "high_res.global_sides": [24, 32]}
    assert "at 16 x 16 pixels (in the last 8% with sides of 24, 32); 8 images" in report.describe(
        config
    )
    del config["high_res.last"]  # of an earlier version
    assert "at 16 x 16 pixels; 8 images" in report.describe(config)
