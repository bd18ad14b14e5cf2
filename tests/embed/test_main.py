"""Features in a file are those of the model, image by image, however often it was interrupted."""

import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from archived import as_list, as_parquet, as_tar
from PIL import Image
from runs import save_run
from tiny import tiny_config, tiny_plan

import ibot_jax
from ibot_jax.data.sources.identity import fingerprint
from ibot_jax.data.sources.opening import open_source
from ibot_jax.embed import __main__ as embed
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import lock
from ibot_jax.runs.training import make_init

ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = [f"{folder}/{i:02d}.png" for folder in ("birds", "ünder way/deep") for i in range(10)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = tiny_config(knn__resize=18)
    state = jax.jit(make_init(config, tiny_plan(config)))(jax.random.key(0))
    state = jax.device_put(state, replicated(make_mesh()))
    return str(save_run(tmp_path_factory.mktemp("runs") / "mine", config, state))


@pytest.fixture(scope="module")
def pixels():
    """Images whose shorter side is that of the resizing, so that only the crop changes them."""
    return np.random.default_rng(0).integers(0, 256, (len(NAMES), 18, 22, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory, pixels):
    folder = tmp_path_factory.mktemp("images")
    for name, image in zip(NAMES, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    (folder / "birds/03.png").write_bytes(b"no image")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def tokens(workdir, pixels):
    model, params = ibot_jax.load(workdir)
    return np.asarray(jax.jit(model.tokens)(params, pixels[:, 1:17, 3:19]))


READABLE = [name for name in NAMES if name != "birds/03.png"]


def run(workdir, images, out, *options):
    return embed.main([f"--from={workdir}", f"--data={images}", f"--out={out}", *options])


def read(path):
    """Returns names, class and patch tokens of a file, read by what others read it with."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return [file[name] for name in ("names", "class", "patches") if name in file.files]
    table = pq.read_table(path)
    assert table.schema.field("class").type.list_size == 16
    lists = [np.stack(table[name].to_numpy()) for name in table.column_names[1:]]
    return [np.array(table["name"].to_pylist()), *lists]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("patches", [False, True], ids=["class", "patches"])
def test_features_are_those_of_the_model(
    workdir, images, tokens, tmp_path, capsys, suffix, patches
):
    out = tmp_path / f"new/features{suffix}"
    options = ["--batch-size=8", *(["--patches"] if patches else [])]
    assert run(workdir, images, out, *options) == 0
    captured = capsys.readouterr()
    assert captured.out == f"19 images, 1 skipped: {out}\n"
    assert re.search(r"^warning: skipped \S+/birds/03\.png: ", captured.err, re.MULTILINE)
    names, class_tokens, *rest = read(out)
    assert names.tolist() == READABLE
    expected = np.delete(tokens, 3, axis=0)
    np.testing.assert_allclose(class_tokens, expected[:, 0], atol=1e-5)
    assert class_tokens.dtype == np.float32
    assert len(rest) == patches
    for array in rest:
        np.testing.assert_allclose(array.reshape(19, 16, 16), expected[:, 1:], atol=1e-5)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("make", [as_tar, as_parquet, as_list])
def test_any_source_gives_the_features_of_the_folder(workdir, images, tokens, tmp_path, make):
    """Of the images of a folder, which `make` puts into other files; one of them is none."""
    spec, out = make(images, tmp_path), tmp_path / "features.npz"
    assert run(workdir, spec, out, "--batch-size=8") == 0
    names, class_tokens = read(out)
    np.testing.assert_allclose(class_tokens, np.delete(tokens, 3, axis=0)[:, 0], atol=1e-5)
    if make is as_tar:
        assert names.tolist() == [f"train-000.tar/{name}" for name in READABLE]


def test_a_part_of_a_folder(workdir, images, tmp_path):
    out = tmp_path / "features.npz"
    assert run(workdir, images, out, "--batch-size=8", "--split=birds") == 0
    assert [f"birds/{name}" for name in read(out)[0]] == READABLE[:9]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_an_interrupted_command_goes_on(
    workdir, images, tokens, tmp_path, capsys, monkeypatch, suffix
):
    out = tmp_path / f"features{suffix}"
    monkeypatch.setattr(embed, "_PART_BYTES", 1)  # a part for each batch
    add, added = embed.Parts.add, []

    def interrupted(self, start, stop, part):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append((start, stop))
        add(self, start, stop, part)

    monkeypatch.setattr(embed.Parts, "add", interrupted)
    assert run(workdir, images, out, "--batch-size=8") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert added == [(0, 8), (8, 16)] and not out.exists()

    assert run(workdir, images, out, "--batch-size=8", "--resize=20") == 2
    assert "features.npz.parts holds features of other view; remove it" in (
        capsys.readouterr().err.replace(".parquet", ".npz")
    )
    added.clear()
    assert run(workdir, images, out, "--batch-size=8") == 0
    assert added == [(16, 20)]
    names, class_tokens = read(out)
    assert names.tolist() == READABLE
    np.testing.assert_allclose(class_tokens, np.delete(tokens, 3, axis=0)[:, 0], atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.fixture(scope="module")
def halfway(workdir, images, tmp_path_factory):
    """Returns images, and the folder of parts that an interrupted command left, all its own."""
    folder = tmp_path_factory.mktemp("halfway")
    shutil.copytree(images, folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "_PART_BYTES", 1)
        patch.setattr(embed.Parts, "finish", interrupt)
        assert run(workdir, folder / "images", folder / "out.npz", "--batch-size=8") == 130
    (folder / "out.npz.parts/000000000016-000000000020.npz").unlink()
    return folder


def interrupt(*_):
    raise KeyboardInterrupt


def go_on(halfway, workdir, tmp_path, change):
    """Copies what was left, times and all, changes it, and gives the command again."""
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    for path in (halfway / "images").rglob("*"):
        shutil.copystat(path, tmp_path / path.relative_to(halfway))
    settings = tmp_path / "out.npz.parts/settings.json"
    there = fingerprint(open_source(f"folder:{tmp_path}/images", "", labelled=False))
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"images": there}))
    change(tmp_path)
    return run(workdir, tmp_path / "images", tmp_path / "out.npz", "--batch-size=8")


def replace(folder):
    """Another picture of the same size in bytes, as it happens, but of another time."""
    file = folder / "images/birds/00.png"
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(0, 10**18))


def enlarge(folder):
    file = folder / "images/birds/00.png"
    times = file.stat()
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def part(folder, name):
    return folder / f"out.npz.parts/{name}"


SETTINGS = "settings.json"
FIRST = "000000000000-000000000008.npz"
ODD = {
    "replaced": (replace, "out.npz.parts holds features of other images; remove it"),
    "grown": (enlarge, "out.npz.parts holds features of other images; remove it"),
    "a list": (lambda f: part(f, "settings.json").write_text("[]"), "settings.json is damaged"),
    "a cut": (lambda f: part(f, "settings.json").write_text('{"a'), "settings.json is damaged"),
    "no text": (
        lambda f: part(f, "settings.json").write_bytes(b"\xff"),
        "settings.json is damaged",
    ),
    "gone": (lambda f: part(f, "settings.json").unlink(), "lies there without settings.json"),
    "odd name": (lambda f: part(f, "copy of 1.npz").touch(), "copy of 1.npz is no part; remove"),
    "notes": (lambda f: part(f, "notes.txt").touch(), "notes.txt is no part; remove"),
    "a folder": (lambda f: part(f, "more").mkdir(), "more is no part; remove"),
    "too long": (
        lambda f: part(f, FIRST).rename(part(f, "000000000000-000000000099.npz")),
        "000000000000-000000000099.npz is no part; remove",
    ),
    "cut": (lambda f: part(f, FIRST).write_bytes(b"PK"), f"{FIRST} is damaged"),
    "in use": (
        lambda f: part(f, ".lock.json").write_text(json.dumps(lock._this_process())),
        f"is in use by process {os.getpid()} on ",
    ),
    "of others": (lambda f: np.savez(part(f, FIRST), names=np.arange(8)), f"{FIRST} is no part"),
}


@pytest.mark.parametrize(("change", "message"), ODD.values(), ids=ODD)
def test_what_does_not_belong_to_an_interrupted_command_is_named(
    halfway, workdir, tmp_path, capsys, change, message
):
    assert go_on(halfway, workdir, tmp_path, change) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out.npz").exists()


def test_what_an_interrupted_writer_left_is_passed_by(halfway, workdir, tmp_path, tokens):
    def leave(folder):
        part(folder, f".{FIRST}.12ab34cd").write_bytes(b"PK")

    assert go_on(halfway, workdir, tmp_path, leave) == 0
    _, class_tokens = read(tmp_path / "out.npz")
    np.testing.assert_allclose(class_tokens, np.delete(tokens, 3, axis=0)[:, 0], atol=1e-5)


def test_mistakes_are_one_line(workdir, images, tmp_path, capsys):
    def failure(*arguments):
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("error: ") and err.count("\n") == 1
        return err

    out = tmp_path / "x.npz"
    assert "is neither .parquet nor .npz" in failure(workdir, images, tmp_path / "x.csv")
    assert "is no folder" in failure(workdir, tmp_path / "nowhere", out)
    assert "does not exist" in failure(tmp_path / "nowhere", images, out)
    assert "is no multiple of the 8 devices" in failure(workdir, images, out, "--batch-size=3")
    assert "'0' is not above 0" in failure(workdir, images, out, "--size=0").replace(
        "0 is", "'0' is"
    )
    out.touch()
    assert "exists; choose another path, or --overwrite" in failure(workdir, images, out)


def test_a_folder_without_a_readable_image(workdir, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    assert run(workdir, tmp_path / "images", tmp_path / "x.npz") == 2
    assert "none of the 1 images in" in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))
