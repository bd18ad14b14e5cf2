"""Images that are no photographs, from files that public writers make to a measured model."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image
from scans import scan

import ibot_jax
from ibot_jax import export
from ibot_jax.embed import __main__ as embed
from ibot_jax.evaluate import __main__ as evaluate
from ibot_jax.tools import data
from ibot_jax.visualize import __main__ as visualize

SIDE, IMAGES = 16, 16  # pixels; of a class and a split
# Georeferencing, as a GeoTIFF has it: metres of a pixel, place of the first one, EPSG:32632.
GEO = [
    (33550, "d", 3, (10.0, 10.0, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5300000.0, 0.0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
]


def textures(seed, kind, channels):
    """Returns numbers of [0, 1], [H, W, C], whose stripes lie as the class says."""
    rng = np.random.default_rng([seed, kind])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    waves = np.sin((rows if kind else columns) * 0.9 + rng.uniform(0, 6))
    noise = 0.1 * rng.normal(size=(SIDE, SIDE, channels))
    return np.clip(0.5 + 0.3 * waves[..., None] + noise, 0, 1)


def satellite(path, seed, kind):
    """Writes ten bands of 16 bits, reflectances up to 10,000; returns their levels."""
    numbers = (10_000 * textures(seed, kind, 10)).astype(np.uint16)
    options = dict(photometric="minisblack", planarconfig="contig", tile=(16, 16), extratags=GEO)
    tifffile.imwrite(path.with_suffix(".tif"), numbers, compression="zlib", **options)
    return numbers.astype(int) * 256 // 10_001


def tomography(path, seed, kind):
    """Writes a DICOM file in Hounsfield units with a window of soft tissue; returns its levels."""
    units = (1500 * textures(seed, kind, 1)[..., 0] - 700).astype(np.int16)
    window = dict(RescaleSlope=1, RescaleIntercept=-24, WindowCenter=50, WindowWidth=801)
    path.with_suffix(".dcm").write_bytes(scan(units + np.int16(24), **window))
    return np.round(np.clip((units - 49.5 + 400) / 800, 0, 1) * 255)[..., None]


KINDS = {
    "satellite": (satellite, dict(channels=10, range=10_000.0)),
    "tomography": (tomography, dict(channels=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_trained_on_exported_embedded_and_measured(kind, tmp_path, capsys):
    write, settings = KINDS[kind]
    levels = {}
    for split in ("train", "test"):
        for number in range(2 * IMAGES):
            name = f"{split}/{'ab'[number % 2]}/{number:02d}"
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            seed = number + 1000 * (split == "test")
            levels[name] = write(tmp_path / "images" / name, seed, number % 2)

    # A look first, which says the mean and the deviation to train with.
    channels, source = settings["channels"], f"folder:{tmp_path}/images"
    flags = [f"--config.data.{key}={value}" for key, value in settings.items()]
    report = tmp_path / "look.json"
    assert data.main([source, *flags, f"--json={report}", f"--out={tmp_path}/sheet.png"]) == 0
    found = json.loads(report.read_text())
    train = np.stack([pixels for name, pixels in levels.items() if name.startswith("train")]) / 255
    np.testing.assert_allclose(found["mean"], train.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(found["std"], train.std(axis=(0, 1, 2)), atol=1e-4)
    assert not found["bad"] and not found["odd"]

    run = ibot_jax.pretrain(
        "digits:ibot",
        str(tmp_path / "run"),
        {
            **{f"data.{key}": value for key, value in settings.items()},
            **{f"data.{key}": tuple(found[key]) for key in ("mean", "std")},
            "data.source": source,
            "data.max_per_class": 0,
            "data.global_size": (SIDE, SIDE),
            "data.local_size": (8, 8),
            "data.local_views": 2,
            "data.workers": 1,
            "duration": "3 epochs",
            "batch_size": 16,
            "dtype": "float32",
            "model.width": 16,
            "model.depth": 1,
            "model.heads": 2,
            "model.patch_size": 4,
            "head.hidden_dim": 16,
            "head.bottleneck_dim": 8,
            "head.prototypes": 16,
            "head.patch_prototypes": 16,
            "loss.teacher_temp_warmup": "1 epochs",
            "optim.warmup": "1 epochs",
            "knn.resize": SIDE,
            "knn.every": "",
            "log_every": "1 steps",
        },
    )
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    assert len(losses) == 6 and np.isfinite(losses).all()

    exported = tmp_path / "exported.npz"
    assert export.main([f"--from={run.workdir}", f"--out={tmp_path}/exported", "--to=npz"]) == 0
    model, params = ibot_jax.load(str(exported))
    for key, value in settings.items():
        assert model.config.data[key] == value

    capsys.readouterr()
    out = tmp_path / "features.parquet"
    images = f"{tmp_path}/images/test"
    assert embed.main([f"--from={exported}", f"--data={images}", f"--out={out}"]) == 0
    table = pq.read_table(out).to_pydict()
    names = [name.rpartition(".")[0] for name in table["name"]]
    pixels = np.stack([levels[f"test/{name}"] for name in names]).astype(np.uint8)
    assert pixels.shape == (2 * IMAGES, SIDE, SIDE, channels)
    features = np.asarray(model.features(params, pixels).cls)
    class_tokens = table[list(table)[1]]
    np.testing.assert_allclose(np.stack(class_tokens), features, atol=1e-5)

    figure = tmp_path / "attention.png"
    shown = ["attention", f"--from={exported}", f"--data={images}", f"--out={figure}"]
    assert visualize.main([*shown, "--number=2"]) == 0 and Image.open(figure).height > SIDE

    report = tmp_path / "evaluated"
    knn = ["knn", f"--from={exported}", f"--data={source}", f"--out={report}", "--k=5"]
    assert evaluate.main([*knn, f"--cache={tmp_path}/cache", "--workers=1"]) == 0
    metrics = json.loads((report / "knn.json").read_text())["metrics"]
    assert metrics["top1"] > 60  # of two classes
