"""Checksums tell every damage of a checkpoint's files, and nothing else."""

import json

import pytest
from etils import epath

from ibot_jax.files.checksums import FIGURES, FILE, add_figures, find_damage, write_checksums

PARTS = ("student", "teacher")
METADATA = {
    "item_handlers": {"student": "handler", "teacher": "handler"},
    "custom_metadata": {"checksums": FILE},
}


def make(folder, step, figures='{"knn_top1": 52.0}'):
    """Writes a folder like Orbax's, each part with the step in its data."""
    for part in PARTS:
        data = folder / part / "d"
        data.mkdir(parents=True)
        (folder / part / "_METADATA").write_text(json.dumps({"tree": part}))
        (data / f"{part}-{step}").write_bytes(f"{part} of step {step}, 0123456789".encode())
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(METADATA))
    if figures:
        (folder / "metrics").mkdir()
        (folder / FIGURES).write_text(figures)
    write_checksums(epath.Path(folder), step)
    # What Orbax does after that.
    said = METADATA | {"commit_timestamp_nsecs": 1795659450494145648}
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(said))
    (folder / "commit_success.txt").touch()
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    return make(tmp_path / "7", 7)


def damage_of(folder, parts=PARTS, step=7, **options):
    return find_damage(epath.Path(folder), step, parts, **options)


def test_the_list_holds_size_and_crc_32_of_every_file(tmp_path):
    folder = tmp_path / "3"
    (folder / "student").mkdir(parents=True)
    (folder / "student/_METADATA").write_bytes(b"123456789")
    (folder / "_CHECKPOINT_METADATA").write_text("{}")
    write_checksums(epath.Path(folder), 3)
    written = json.loads((folder / FILE).read_text())
    assert written["step"] == 3
    # The check value of CRC-32 that its catalogues give.
    assert written["files"] == {"student/_METADATA": {"bytes": 9, "crc32": 0xCBF43926}}


def test_what_is_as_it_was_written_is_whole(checkpoint):
    assert damage_of(checkpoint) is None
    (checkpoint / "student/.nfs0001").write_text("not of the checkpoint")
    assert damage_of(checkpoint) is None


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


FILES = ["student/_METADATA", "teacher/d/teacher-7", FIGURES, FILE, "_CHECKPOINT_METADATA"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [flipped, cut, emptied, replaced_by_a_folder, lambda path: path.unlink()]
)
def test_every_damage_of_every_file_is_named(checkpoint, name, damage):
    damage(checkpoint / name)
    assert name in damage_of(checkpoint)


def test_no_bit_of_the_list_itself_can_change_unseen(checkpoint):
    written = (checkpoint / FILE).read_bytes()
    for place in range(len(written)):
        content = bytearray(written)
        content[place] ^= 1 << place % 8
        (checkpoint / FILE).write_bytes(bytes(content))
        white_space = written[place : place + 1].isspace() and damage_of(checkpoint) is None
        assert white_space or FILE in damage_of(checkpoint)


def test_parts_and_folders_belong_to_a_step(checkpoint, tmp_path):
    other = make(tmp_path / "9", 9)
    for part in ("student", "teacher"):
        (other / part).rename(tmp_path / "aside")
        (checkpoint / part).rename(other / part)
        (tmp_path / "aside").rename(checkpoint / part)
        assert damage_of(checkpoint, [part]).startswith(f"{part}/")
        assert damage_of(other, [part], step=9).startswith(f"{part}/")
    whole = make(tmp_path / "11", 11)
    assert damage_of(whole, step=12) == f"{FILE} is that of step 11"


def test_who_reads_one_part_looks_at_no_other(checkpoint):
    flipped(checkpoint / "student/d/student-7")
    assert damage_of(checkpoint, ["teacher"]) is None
    assert damage_of(checkpoint, ["student"]).startswith("student/d/student-7")
    assert damage_of(checkpoint, PARTS, small_only=True) is None


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"files": 3}', '{"item_handlers": []}', "[" * 10**5]
)
@pytest.mark.parametrize("name", [FILE, "_CHECKPOINT_METADATA", "student/_METADATA", FIGURES])
def test_files_of_another_form(checkpoint, name, content):
    (checkpoint / name).write_text(content)
    assert name in damage_of(checkpoint)


@pytest.mark.parametrize(
    "figures",
    [
        "{",
        "[]",
        '{"knn_top1": "high"}',
        '{"knn_top1": NaN}',
        '{"knn_top1": true}',
        '{"knn_top1": 1' + "0" * 400 + "}",
    ],
)
def test_figures_that_are_no_numbers(tmp_path, figures):
    folder = make(tmp_path / "7", 7, figures)
    assert damage_of(folder).startswith(FIGURES)
    (folder / FILE).unlink()
    (folder / "_CHECKPOINT_METADATA").write_text('{"item_handlers": {}, "custom_metadata": {}}')
    assert damage_of(folder).startswith(FIGURES)


def test_a_checkpoint_of_an_earlier_version_has_no_list(checkpoint):
    (checkpoint / FILE).unlink()
    assert damage_of(checkpoint) == f"{FILE} is missing"  # its metadata announces it
    said = METADATA | {"custom_metadata": {}}
    (checkpoint / "_CHECKPOINT_METADATA").write_text(json.dumps(said))
    assert damage_of(checkpoint) is None
    (checkpoint / "teacher/_METADATA").unlink()
    assert damage_of(checkpoint) == "teacher/_METADATA is missing"


def test_figures_that_come_later_are_listed(tmp_path):
    folder = epath.Path(make(tmp_path / "7", 7, figures=None))
    add_figures(folder, {"knn_top1": 61.5})
    assert json.loads((folder / FIGURES).read_text()) == {"knn_top1": 61.5}
    assert damage_of(folder) is None
    (folder / FIGURES).write_text('{"knn_top1": 91.5}')
    assert damage_of(folder) == f"{FIGURES} is not what was written (its checksum differs)"
