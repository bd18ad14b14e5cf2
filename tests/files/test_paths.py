"""Paths that cannot be reached or written are told before anything is computed."""

import logging
import os
import threading

import pytest
from etils import epath

from ibot_jax import convert, embed, export, visualize
from ibot_jax.convert import __main__ as convert_main
from ibot_jax.data.sources.opening import open_source
from ibot_jax.embed import __main__ as embed_main
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as evaluate_main
from ibot_jax.evaluate.common import running
from ibot_jax.files import paths
from ibot_jax.runs.workdir import open_workdir
from ibot_jax.visualize import __main__ as visualize_main

assert convert and embed and visualize  # packages, whose command lines are below
SCHEMES = ("s3", "az", "abfs", "hdfs", "http", "https", "file", "GS")


def test_local_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(paths.absolute_path("a/../b")) == f"{tmp_path}/b"
    assert str(paths.absolute_path("~/x")) == "/home/someone/x"
    assert str(paths.absolute_path("odd:name/x")) == f"{tmp_path}/odd:name/x"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_schemes_are_named(scheme):
    with pytest.raises(
        UserError, match=f"^{scheme}://b/x: .* gs://BUCKET/PATH, not behind {scheme}://;"
    ):
        paths.absolute_path(f"{scheme}://b/x")


def test_a_bucket_without_a_name():
    with pytest.raises(UserError, match="^gs:///x names no bucket"):
        paths.absolute_path("gs:///x")


class Bucket:
    """Stands in for `epath.Path` of a bucket that answers as it is told."""

    def __init__(self, answer):
        self.asked = 0
        self._answer = answer

    def __call__(self, path):
        return self

    def exists(self):
        self.asked += 1
        return self._answer()


def silent():
    threading.Event().wait(60)


def refused():
    raise PermissionError(13, "403:\n\tno access")


@pytest.mark.parametrize(
    ("answer", "reason"), [(silent, "no answer within 0.1 s"), (refused, "403: no access")]
)
def test_a_bucket_that_does_not_answer_is_told_with_the_reason(monkeypatch, answer, reason):
    monkeypatch.setattr(paths.epath, "Path", Bucket(answer))
    monkeypatch.setattr(paths.remote, "ANSWER_SECONDS", 0.1)
    with pytest.raises(UserError) as error:
        paths.require_reachable("gs://odd/x")
    assert str(error.value).startswith(f"gs://odd/x cannot be reached ({reason}); ")


def test_a_bucket_is_asked_once(monkeypatch):
    bucket = Bucket(lambda: False)  # that nothing is there is an answer
    monkeypatch.setattr(paths.epath, "Path", bucket)
    for path in ("gs://asked-once/x", "gs://asked-once/y"):
        paths.require_reachable(path)
    assert bucket.asked == 1


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (convert_main, ("IN", "x.npz", "--to=npz")),
        (convert_main, ("x.pth", "IN", "--to=npz")),
        (export, ("--from=IN", "--to=npz", "--out=x.npz")),
        (export, ("--from=x", "--to=npz", "--out=IN")),
        (embed_main, ("--from=IN", "--data=x", "--out=x.npz")),
        (embed_main, ("--from=x", "--data=x", "--out=IN.npz")),
        (evaluate_main, ("knn", "--from=IN", "--data=digits")),
        (evaluate_main, ("knn", "--from=x", "--data=digits", "--out=IN")),
        (visualize_main, ("pca", "--from=IN", "--data=x", "--out=x.png")),
        (visualize_main, ("report", "--from=IN", "--out=x.html")),
    ],
)
def test_every_command_says_so_in_one_line(scheme, main, argv, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "_refusal", lambda bucket, path: "it is down")
    if "--from=x" in argv:  # which settle looks at first
        monkeypatch.setattr(running, "settle", lambda args: None)
    assert main.main([word.replace("IN", f"{scheme}://none/w") for word in argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {scheme}://none/w")
    assert ("it is down" if scheme == "gs" else "not behind s3://") in line
    assert not list(tmp_path.iterdir())


def test_data_and_workdir_are_looked_at_too():
    for make in (
        lambda: open_source("tfds:mnist", "train", data_dir="s3://none/x"),
        lambda: open_workdir("s3://none/x", None, None, allow_config_change=False),
    ):
        with pytest.raises(UserError, match="s3://none/x: .* not behind s3://"):
            make()


def test_what_cannot_be_written_is_told_before(tmp_path):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file/x.npz", tmp_path / "file/deeper/x", "/proc/no-such/x"):
        with pytest.raises(UserError, match=f"--out={target} cannot be written "):
            paths.require_writable(epath.Path(target), "--out")
    paths.require_writable(epath.Path(tmp_path / "new/deeper/x"), "--out")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("target", "source", "warns"),
    [
        ("att.png", "folder:.", True),
        ("new/att.png", ".", True),
        ("link/att.png", "folder:sub", True),
        ("sub/../att.png", "folder:sub", False),
        ("subway/att.png", "folder:sub", False),
        ("att.png", "", False),
        ("digits/att.png", "digits", False),
        ("att.png", "folder:gs://bucket/x", False),
    ],
)
def test_outputs_among_images_are_pointed_out(target, source, warns, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("ibot_jax"), "propagate", True)
    for name in ("sub", "subway", "digits"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("sub")
    paths.warn_if_among_images(target, "--out", [source])
    assert bool(caplog.messages) == warns
    assert all(text.startswith(f"--out={target} lies in ") for text in caplog.messages)
