"""Lines in a file, on a disk and in a bucket, which cannot append."""

import math

import pytest
from disk import full_disk
from etils import epath

from ibot_jax.errors import TrainingError, UserError
from ibot_jax.files.json_files import is_finite_number
from ibot_jax.files.json_lines import JsonLines, read_lines


class Bucket:
    """A file in a bucket: written as a whole or not at all."""

    def __init__(self):
        self.content = None

    def __str__(self):
        return "gs://bucket/metrics.jsonl"

    def exists(self):
        return self.content is not None

    def read_bytes(self):
        return self.content

    def write_bytes(self, content):
        self.content = content


@pytest.fixture(params=["disk", "bucket"])
def path(request, tmp_path):
    return Bucket() if request.param == "bucket" else epath.Path(tmp_path) / "metrics.jsonl"


def test_rows_are_kept_replaced_and_added(path):
    assert read_lines(path) == []
    lines = JsonLines(path, [])
    lines.write({"step": 1})
    lines.flush()
    lines.write({"step": 2})
    lines.close()
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    lines = JsonLines(path, read_lines(path)[:1])
    lines.write({"step": 3})
    lines.flush()
    lines.check()
    assert read_lines(path) == [{"step": 1}, {"step": 3}]


def test_on_a_disk_a_line_is_there_at_once(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    JsonLines(path, []).write({"step": 1})
    assert path.read_text() == '{"step": 1}\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_full_disk_is_reported_when_asked_for(tmp_path):
    lines = JsonLines(epath.Path(tmp_path) / "metrics.jsonl", [])
    lines.check()
    with full_disk():
        lines.write({"text": "x" * 5000})
    with pytest.raises(TrainingError, match=r"metrics\.jsonl cannot be written \(File too large\)"):
        lines.check()


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(TrainingError, match="cannot be written"):
        JsonLines(epath.Path(tmp_path) / "absent/metrics.jsonl", [])


@pytest.mark.parametrize(
    "odd", [b"\xff\xfe\xfa", b"3", b"[]", b"null", b"{", b'"text"', b"[" * 10**5, b'{"step": "1"}']
)
def test_odd_lines_are_left_out_counted_and_named(tmp_path, caplog, odd):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + odd + b'\n{"step": 2}\n' + odd + b'\n\n{"step": 3}\n{"st')
    rows = read_lines(path, lambda row: isinstance(row.get("step"), int))
    assert rows == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert caplog.messages == [f"{path}: left out what is damaged, 2 lines: 2, 4"]


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"/metrics\.jsonl is a folder; move it elsewhere"):
        read_lines(epath.Path(tmp_path) / "metrics.jsonl")


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (0, True),
        (-1.5, True),
        (10**308, True),
        (10**309, False),
        (True, False),
        (None, False),
        (math.inf, False),
        (math.nan, False),
        ("1", False),
        ([1], False),
    ],
)
def test_numbers_that_a_float_holds(value, fits):
    assert is_finite_number(value) == fits
