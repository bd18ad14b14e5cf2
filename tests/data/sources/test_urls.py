"""Images behind http:// and s3://: those of the folder, and what may go wrong with a store."""

import os
import re
import shutil

import numpy as np
import pytest
from archived import ALL, OF_URLS, as_folder, as_tar, contents, write_tar
from servers import http_server, s3_bucket
from tiny import pipeline_settings

from ibot_jax.config.plan import make_plan
from ibot_jax.data.pipeline import train_batches
from ibot_jax.data.sources.opening import open_source
from ibot_jax.errors import TrainingError
from ibot_jax.files import remote
from ibot_jax.parallel.shares import all_rows
from ibot_jax.tools import data as tool


def as_relative_list(folder, out):
    shutil.copytree(folder, out / "images")
    rows = (f"images/{name},{name.split('/')[0]}\n" for name, _, _ in contents(folder))
    (out / "train.csv").write_text("".join(rows))
    return f"list:{out}/{{split}}.csv"


MAKE = {kind: ALL[kind] for kind in OF_URLS} | {"list": as_relative_list}
SERVE = {"http": http_server, "s3": s3_bucket}


@pytest.fixture
def folder(make_folder):
    return make_folder("a", "b", "c", count=4)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Keeps indexes here, waits for nothing, and asks nobody outside for credentials."""
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_WAITS", (0.0,) * 4)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def fetched(source):
    return [source.fetch(source.locate(index)[0]) for index in range(len(source))]


@pytest.mark.parametrize("store", SERVE)
def test_they_are_the_images_of_the_folder(store, folder, tmp_path):
    """Of all kinds of sources that lie behind URLs: in its order, with its labels."""
    _, images, labels = zip(*contents(folder), strict=True)
    specs = {}
    for kind, make in MAKE.items():
        (tmp_path / "served" / kind).mkdir(parents=True)
        specs[kind] = make(folder, tmp_path / "served" / kind)
    with SERVE[store](tmp_path / "served") as url:
        for spec in specs.values():
            source = open_source(spec.replace(str(tmp_path / "served"), url), "train")
            assert fetched(source) == list(images), spec
            np.testing.assert_array_equal(source.labels, labels)


def batches(source, config):
    plan = make_plan(config, len(source))
    rows = all_rows(plan.batch_size)
    return list(train_batches(source, plan, rows, **pipeline_settings(config)))


@pytest.mark.parametrize(("store", "kind"), [("http", "list"), ("s3", "webdataset")])
def test_workers_make_the_batches_of_the_folder(store, kind, folder, out, config):
    """Bit for bit, from ranges that they read themselves."""
    spec = MAKE[kind](folder, out)
    with SERVE[store](out) as url:
        found = batches(open_source(spec.replace(str(out), url), "train"), config)
    expected = batches(open_source(f"folder:{folder}", "train"), config)
    for batch, other in zip(found, expected, strict=True):
        for name, array in other.items():
            np.testing.assert_array_equal(batch[name], array)


class Trouble:
    """Refuses some paths some times."""

    def __init__(self, part, status, times):
        self.part, self.status, self.left = part, status, times
        self.asked = 0

    def __call__(self, path):
        if self.part not in path:
            return 0
        self.asked += 1
        self.left -= 1
        return self.status if self.left >= 0 else 0


@pytest.mark.parametrize(("status", "times"), [(503, 4), (500, 1), (429, 2)])
def test_a_server_that_fails_for_a_moment_is_asked_again(status, times, folder, out):
    spec, trouble = as_folder(folder, out), Trouble("a/001.png", status, times)
    with http_server(out, trouble) as url:
        source = open_source(spec.replace(str(out), url), "train")
        assert fetched(source)[1] == contents(folder)[1][1]
    assert trouble.asked == times + 1


def test_a_listing_that_fails_for_a_moment_is_asked_for_again(folder, out):
    spec, trouble = as_folder(folder, out), Trouble("images/b", 503, 3)
    with http_server(out, trouble) as url:
        source = open_source(spec.replace(str(out), url), "train")
        assert fetched(source) == [data for _, data, _ in contents(folder)]
    assert trouble.left < 0


@pytest.mark.parametrize(
    ("status", "asked", "told"),
    [(503, 5, "503"), (403, 1, "403"), (404, 1, r"/images/a/001\.png")],
)
def test_one_that_goes_on_failing_is_given_up_with_the_cause(status, asked, told, folder, out):
    spec, trouble = as_folder(folder, out), Trouble("a/001.png", status, 99)
    with http_server(out, trouble) as url:
        source = open_source(spec.replace(str(out), url), "train")
        located = source.locate(1)[0]
        with pytest.raises(Exception, match=told):
            source.fetch(located)
    assert trouble.asked == asked
    with pytest.raises(Exception, match="Cannot connect"):  # nobody listens any more
        source.fetch(located)


def test_a_list_with_dead_links_is_trained_on(folder, out, config, caplog):
    """Three of a hundred: counted, named with the cause, and too many for a lower limit."""
    with (out / "train.csv").open("w") as file:
        for number in range(100):
            name = "gone" if number in (7, 40, 77) else "abc"[number % 3]
            file.write(f"images/{name}/{number % 4:03d}.png\n")
    as_folder(folder, out)
    config.update(batch_size=20)
    config.data.max_bad_share = 0.05
    with http_server(out) as url:
        source = open_source(f"list:{url}/train.csv", "train")
        plan = make_plan(config, len(source))
        running = train_batches(source, plan, all_rows(20), **pipeline_settings(config))
        assert sum(len(batch["masks"]) for batch in running) == 200 and running.bad_images == 3
        for number in (7, 40, 77):
            named = f"skipped {url}/images/gone/{number % 4:03d}.png: FileNotFoundError"
            assert caplog.text.count(named) == 1
        config.data.max_bad_share = 0.02
        with pytest.raises(TrainingError, match=r"3 images could not be read, .*gone/000.png"):
            batches(source, config)


@pytest.mark.slow
def test_an_image_that_a_server_does_not_give_is_broken_with_the_cause(folder, out, config, caplog):
    """A worker asks five times, in 7.5 seconds."""
    spec, config.data.max_bad_share = as_folder(folder, out), 0.1
    with http_server(out, Trouble("b/002.png", 503, 10**6)) as url:
        assert len(batches(open_source(spec.replace(str(out), url), "train"), config)) == 2
    assert caplog.text.count("images/b/002.png: ClientResponseError: 503") == 1


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("folder:{url}/nowhere", "nowhere"),
        ("tar:{url}/nowhere.tar", "nowhere.tar"),
        ("tar:{url}/*.zip", r"names no file; look at the path \(http.*/\*\.zip"),
        ("list:{url}/nowhere.csv", r"names no file; look at the path \(http.*/nowhere\.csv"),
    ],
)
def test_what_is_not_there_is_one_line(source, told, folder, out, capsys):
    """On the screen, with exit status 2, for every kind of source."""
    as_tar(folder, out)
    with http_server(out) as url:
        status = tool.main([source.format(url=url)])
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert re.search(told, error), error


def test_missing_credentials_are_one_line(folder, out, tmp_path, monkeypatch, capsys):
    as_tar(folder, out)
    with s3_bucket(out) as url:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        for spec in (f"folder:{url}/images", f"tar:{url}/train-*.tar"):
            assert tool.main([spec]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert "NoCredentialsError: Unable to locate credentials; check the" in error


def test_a_server_without_ranges_is_told(folder, out):
    """It would send a whole shard for each image."""
    spec = as_tar(folder, out)
    with http_server(out) as url:
        source = open_source(spec.replace(str(out), url), "train")
        place = source.locate(3)[0]
    told = pytest.raises(ValueError, match="is sent as a whole where a part is asked for; copy")
    with http_server(out, ranges=False) as other, told:
        source.fetch((place[0].replace(url, other), *place[1:]))


def test_a_shard_that_is_replaced_is_looked_into_anew(folder, out):
    """One of the same size: servers tell when a file was changed."""
    spec = as_tar(folder, out)
    path = out / "train-000.tar"
    size = path.stat().st_size
    with http_server(out) as url:
        spec = spec.replace(str(out), url)
        before = open_source(spec, "train")
        write_tar(path, [(f"{name[:-5]}9.png", data) for name, data, _ in contents(folder)[:1]])
        with path.open("r+b") as file:
            file.truncate(size)
        os.utime(path, (0, 0))
        after = open_source(spec, "train")
    assert before.relative_name(0) == "train-000.tar/a/000.png" and len(before) == 12
    assert after.relative_name(0) == "train-000.tar/a/009.png" and len(after) == 1
