"""Images in larger files: the same images as in a folder, and what may be wrong with the files."""

import io
import logging
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archived import (
    ALL,
    INDEXED,
    OF_CLASSES,
    as_arrayrecord,
    as_hf,
    as_parquet,
    as_tar,
    as_webdataset,
    as_zip,
    contents,
    write_arrayrecord,
    write_tar,
)
from PIL import Image

from ibot_jax.data.sources.identity import fingerprint, names_of
from ibot_jax.data.sources.opening import open_source, splits_for_testing
from ibot_jax.data.sources.patterns import files_of
from ibot_jax.data.sources.shards import arrayrecord, indexes, parquet
from ibot_jax.data.sources.shared_images import find_shared
from ibot_jax.errors import UserError
from ibot_jax.files import remote


def png(number, side=6):
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of three classes of four images, one of them deeper."""
    root = tmp_path / "images"
    for number in range(12):
        below = root / "abc"[number % 3] / ("deep" if number == 4 else "")
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number:02d}.png").write_bytes(png(number))
    return root


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ibot_jax" / "indexes"


def fetched(source):
    return [source.fetch(source.locate(index)[0]) for index in range(len(source))]


@pytest.mark.parametrize("kind", ALL)
def test_they_are_the_images_of_the_folder(kind, folder, out):
    """In its order, with its labels."""
    source = open_source(ALL[kind](folder, out), "train", data_dir=str(out))
    _, images, labels = zip(*contents(folder), strict=True)
    assert fetched(source) == list(images)
    assert [source.locate(index)[1] for index in range(12)] == list(labels)
    expected = ["0", "1", "2"] if kind in ("webdataset", "arrayrecord") else ["a", "b", "c"]
    assert source.class_names == expected and source.num_classes == 3


@pytest.mark.parametrize("kind", OF_CLASSES)
def test_the_first_of_each_class(kind, folder, out):
    source = open_source(ALL[kind](folder, out), "train", max_per_class=2)
    expected = open_source(f"folder:{folder}", "train", max_per_class=2)
    assert fetched(source) == fetched(expected)
    np.testing.assert_array_equal(source.labels, expected.labels)


@pytest.mark.parametrize("kind", ALL)
def test_memory_stays_what_it_was(kind, tmp_path, out):
    """Of a process that reads 4,800 images, 236 MB: a fifteenth of it would be seen."""
    for number in range(12):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, side=128))
    source = open_source(ALL[kind](tmp_path / "images", out), "train", data_dir=str(out))

    def held():
        for _ in range(100):
            assert sum(map(len, fetched(source))) > 12 * 49_000
        memory = psutil.Process().memory_info()
        return memory.rss - getattr(memory, "shared", 0)  # libraries are shared, more or less

    before = held()
    for _ in range(3):
        after = held()
    assert after - before < 12e6


@pytest.mark.parametrize("kind", INDEXED)
def test_an_index_is_kept(kind, folder, out, cache, monkeypatch):
    spec = ALL[kind](folder, out)
    first = open_source(spec, "train")
    monkeypatch.setattr(indexes, "_made", lambda *args: pytest.fail("it was kept"))
    second = open_source(spec, "train")
    assert fetched(second) == fetched(first) and list(names_of(second)) == list(names_of(first))
    np.testing.assert_array_equal(second.labels, first.labels)
    assert len(list(cache.iterdir())) == len(first.files)


@pytest.mark.parametrize("make", [as_parquet, as_arrayrecord, as_hf])
def test_names_are_told_apart_from_places(make, folder, out, tmp_path):
    """Names are the same for a copy elsewhere; a fingerprint is another for other files."""
    source = open_source(make(folder, out), "train")
    (tmp_path / "copy").mkdir()
    copy = open_source(make(folder, tmp_path / "copy"), "train")
    assert list(names_of(source)) == list(names_of(copy))
    assert fingerprint(source) == fingerprint(source) != fingerprint(copy)
    assert find_shared(source, source).count == 12 and find_shared(source, copy).count == 0


def test_patterns_name_files_as_shells_do(tmp_path):
    names = ["a-08.tar", "a-09.tar", "a-10.tar", "b-08.tar", "val-0.tar", "a-11.zip"]
    for name in names:
        (tmp_path / name).touch()

    def found(pattern, split="train"):
        files = files_of(f"{tmp_path}/{pattern}", split, spec=f"tar:{pattern}", key="data.split")
        return [file.rpartition("/")[2] for file in files]

    assert found("a-*.tar") == names[:3]
    assert found("{b,a}-08.tar") == ["b-08.tar", "a-08.tar"]
    assert found("a-{08..10}.tar") == names[:3]
    assert found("a-{08..12}.tar") == names[:3]  # those that are there
    assert found("{split}-*.tar", "val") == ["val-0.tar"]
    assert splits_for_testing(f"tar:{tmp_path}/{{split}}-*.tar") == ["val"]
    assert splits_for_testing(f"tar:{tmp_path}/a-*.tar") == []
    (tmp_path / "a [0]{b}").mkdir()
    (tmp_path / "a [0]{b}" / "val-*.tar").touch()
    assert found("a [0]{b}/{split}-*.tar", "val") == ["val-*.tar"]  # a file of that very name
    assert splits_for_testing(f"tar:{tmp_path}/a [0]{{b}}/{{split}}-*.tar") == ["val"]
    with pytest.raises(UserError, match=r"data.split='val' is not in .*one split, train; write"):
        found("a-*.tar", "val")
    with pytest.raises(UserError, match="names no file; look at the path"):
        found("c-*.tar")


@pytest.mark.parametrize("kind", [as_tar, as_webdataset, as_zip, as_parquet])
def test_behind_a_url_they_are_the_same(kind, folder, out, monkeypatch):
    """Read by ranges, and again where a store fails for a moment."""
    monkeypatch.setattr(remote, "_WAITS", (0.0,) * 4)
    spec = kind(folder, out)
    expected = open_source(spec, "train")
    store = fsspec.filesystem("memory")
    for path in out.iterdir():
        store.pipe_file(f"/{out.name}/{path.name}", path.read_bytes())
    before, fails = store.cat_file, iter([True, True, False] * 100)

    def cat_file(*args, **kwargs):
        if next(fails):
            raise OSError("503")
        return before(*args, **kwargs)

    monkeypatch.setattr(store, "cat_file", cat_file)
    source = open_source(spec.replace(str(out), f"memory://{out.name}"), "train")
    assert fetched(source) == fetched(expected)
    np.testing.assert_array_equal(source.labels, expected.labels)
    assert find_shared(source, source).count == 12
    gone = source.locate(0)[0]
    store.rm(f"/{out.name}", recursive=True)
    parquet._images_of_group.cache_clear()
    with pytest.raises(FileNotFoundError):
        source.fetch(gone)


def test_where_row_groups_lie_is_read_once(folder, out, monkeypatch):
    source = open_source(as_parquet(folder, out), "train")
    expected = fetched(source)
    for kept in (parquet._images_of_group, parquet._layout):
        kept.cache_clear()
    read, opened = pq.ParquetFile, []

    def open_file(file, metadata=None):
        opened.append(metadata is None)
        return read(file, metadata=metadata)

    monkeypatch.setattr(pq, "ParquetFile", open_file)
    assert fetched(source) == expected
    assert len(opened) > 2 and sum(opened) == 1


def test_a_store_that_says_no_is_not_asked_again():
    class Refusal(Exception):
        status = 403

    for error in (FileNotFoundError(), Refusal(), PermissionError()):
        asked = []

        def ask(error=error, asked=asked):
            asked.append(1)
            raise error

        with pytest.raises(type(error)):
            remote.patiently(ask)
        assert len(asked) == 1


def test_an_index_is_kept_and_made_anew_where_a_shard_was_replaced(folder, out, cache, monkeypatch):
    spec = as_webdataset(folder, out)
    first = fetched(open_source(spec, "train"))
    assert len(list(cache.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(indexes, "_made", lambda *args: pytest.fail("it was kept"))
        assert fetched(open_source(spec, "train")) == first
    write_tar(out / "web-001.tar", [("x.png", png(99)), ("x.cls", b"2")])
    again = open_source(spec, "train")
    assert fetched(again) == [*first[:6], png(99)] and again.labels[-1] == 2
    for path in cache.iterdir():
        path.write_bytes(b"damaged")
    assert fetched(open_source(spec, "train")) == [*first[:6], png(99)]


@pytest.mark.parametrize("make", [as_parquet, as_arrayrecord, as_hf])
def test_a_file_that_is_replaced_by_one_of_other_images_in_their_places_is_told(make, folder, out):
    source = open_source(make(folder, out), "train")
    place, _ = source.locate(5)
    fetch = pickle.loads(pickle.dumps(source.fetch))  # as a worker gets it
    assert fetch(place) == source.fetch(place)
    shutil.copyfile(place[0], out / "same")
    os.replace(out / "same", place[0])
    with pytest.raises(ValueError, match="has changed since it was opened"):
        fetch(place)
    os.remove(place[0])
    with pytest.raises(FileNotFoundError):
        fetch(place)


def test_a_tar_or_zip_that_is_replaced_tells_by_its_headers(folder, out):
    source = open_source(as_tar(folder, out), "train")
    place, _ = source.locate(11)
    (out / "train-000.tar").write_bytes(b"x" * 600)
    with pytest.raises(EOFError, match="too early; was it replaced"):
        source.fetch(place)
    write_tar(out / "train-000.tar", [("a.png", png(1)), ("b.png", bytes(50_000))])
    with pytest.raises(ValueError, match=r"has changed: no file of \d+ bytes begins at byte"):
        source.fetch(place)
    source = open_source(as_zip(folder, out), "train")
    place, _ = source.locate(5)
    (out / "train.zip").write_bytes((out / "train.zip").read_bytes()[3:])
    with pytest.raises(ValueError, match=r"has changed: no file begins at byte"):
        source.fetch(place)


def test_links_in_a_tar_are_what_they_lead_to(folder, out, caplog):
    """As in the folder, whose links the program tar keeps: hard ones, and others."""
    os.link(folder / "a/00.png", folder / "b/hard.png")
    os.symlink("../a/03.png", folder / "b/soft.png")
    (folder / "a/blob").write_bytes(png(77))  # no image by its name
    os.symlink("blob", folder / "a/named.png")
    expected = contents(folder)
    os.symlink("b/soft.png", folder / "c/nowhere.png")  # from its folder
    subprocess.run(["tar", "-cf", out / "train.tar", "-C", folder, "."], check=True)
    with caplog.at_level(logging.WARNING):
        source = open_source(f"tar:{out}/train.tar", "train")
    found = {source.relative_name(i): data for i, data in enumerate(fetched(source))}
    assert found == {f"train.tar/{name}": data for name, data, _ in expected}
    assert len(found) == 15 and "1 images are left out, links to what is not in it" in caplog.text


def test_of_files_of_one_name_in_a_tar_the_last_counts(out, caplog):
    """As it does where a tar is unpacked, which is told."""
    files = [("a/1.png", png(1)), ("b/2.png", png(2)), ("a/1.png", png(3))]
    write_tar(out / "a.tar", files)
    with caplog.at_level(logging.WARNING):
        assert fetched(open_source(f"tar:{out}/a.tar", "train")) == [png(3), png(2)]
    assert "1 images are left out, for later ones have their names" in caplog.text


def test_what_a_tar_holds_that_is_not_read_is_told(folder, out, caplog):
    """Files stored without their zeros, the last of the tar, and a second tar behind the first."""
    with (folder / "c/11.png").open("r+b") as file:
        file.truncate(2**20)
    subprocess.run(["tar", "-S", "-cf", out / "a.tar", "-C", folder, "a", "b", "c"], check=True)
    with caplog.at_level(logging.WARNING):
        assert len(open_source(f"tar:{out}/a.tar", "train")) == 11
    assert "a.tar: 1 images are left out, stored without their zeros" in caplog.text
    assert "cut off" not in caplog.text
    write_tar(out / "b.tar", [("1.png", png(1))])
    first = (out / "b.tar").read_bytes()
    (out / "b.tar").write_bytes(first + first)
    with caplog.at_level(logging.WARNING):
        assert len(open_source(f"tar:{out}/b.tar", "train")) == 1
    assert "b.tar: what lies behind its end, such as a second tar, is left out" in caplog.text


def test_a_tar_that_is_cut_off_has_the_images_before(folder, out, caplog):
    spec = as_tar(folder, out)
    path = out / "train-000.tar"
    with tarfile.open(path) as tar:
        begin = tar.getmembers()[7].offset
    path.write_bytes(path.read_bytes()[: begin + 520])
    with caplog.at_level(logging.WARNING):
        source = open_source(spec, "train")
    assert len(source) == 7 and "cut off; the 7 images before are taken" in caplog.text


@pytest.mark.parametrize("make", [as_tar, as_zip, as_parquet, as_arrayrecord])
def test_a_shard_without_a_byte_is_left_out_and_told(make, folder, out, caplog):
    spec = make(folder, out)
    first = min(out.iterdir())
    empty = first.with_name(first.name.replace("train", "train-z"))
    empty.touch()
    with caplog.at_level(logging.WARNING):
        source = open_source(f"{spec.partition(':')[0]}:{out}/*", "train")
    assert len(source) == 12 and str(empty) in source.files
    assert f"{empty}: left out, for it cannot be read" in caplog.text
    with pytest.raises(UserError, match=r"left out, for it cannot be read: .*none of the 1 files"):
        open_source(f"{spec.partition(':')[0]}:{empty}", "train")


def test_files_that_are_none_are_left_out_and_told(folder, out, caplog):
    spec = as_tar(folder, out, count=2)
    (out / "train-002.tar").touch()
    (out / "train-003.tar").write_text("no tar at all" * 100)
    with caplog.at_level(logging.WARNING):
        assert len(open_source(spec, "train")) == 12
    assert caplog.text.count("left out, for it cannot be read") == 2
    for number in (0, 1):
        (out / f"train-00{number}.tar").unlink()
    with pytest.raises(UserError, match="none of the 2 files can be read"):
        open_source(spec, "train")
    (out / "train-000.tar").write_bytes(b"\x1f\x8b" + b"0" * 600)
    with pytest.raises(UserError, match="is compressed, and has no random access; unpack it"):
        open_source(spec, "train")


def test_of_many_files_that_are_none_the_first_are_named(folder, out, caplog):
    spec = as_tar(folder, out)
    for number in range(1, 31):
        (out / f"train-{number:03d}.tar").touch()
    with caplog.at_level(logging.WARNING):
        assert len(open_source(spec, "train")) == 12
    assert caplog.text.count("left out, for it cannot be read") == 20
    assert "10 more of 31 files are cut off or left out" in caplog.text


def test_columns_of_bytes_of_all_kinds(out):
    """As PyArrow and other programs write them; lists of images and paths are none."""
    images = [png(number) for number in range(4)]
    wide = max(map(len, images))
    plain = pa.array(images)
    kinds = {
        "large": plain.cast(pa.large_binary()),
        "view": plain.cast(pa.binary_view()),
        "dictionary": plain.dictionary_encode(),
        "fixed": pa.array([image.ljust(wide, b"\0") for image in images], pa.binary(wide)),
    }
    for name, column in kinds.items():
        pq.write_table(pa.table({"image": column}), out / f"{name}.parquet", row_group_size=3)
        source = open_source(f"parquet:{out}/{name}.parquet", "train")
        assert [image.rstrip(b"\0") for image in fetched(source)] == [
            image.rstrip(b"\0") for image in images
        ], name
    table = pa.table({"several": [[image] for image in images], "path": ["a.png"] * 4})
    pq.write_table(table, out / "none.parquet")
    for name, kind in (("several", r"list<\w+: binary>"), ("path", "string")):
        with pytest.raises(UserError, match=f"the column '{name}' of .* holds {kind}; images are"):
            open_source(f"parquet:{out}/none.parquet#{name}", "train")


def test_labels_for_some_are_none(out, caplog):
    write_tar(out / "a.tar", [("1.png", png(1)), ("1.cls", b"0"), ("2.png", png(2))])
    with caplog.at_level(logging.WARNING):
        source = open_source(f"tar:{out}/a.tar", "train")
    assert source.labels is None and source.num_classes is None and source.locate(0)[1] == -1
    assert "without labels: 1 of 2 images have none" in caplog.text
    with pytest.raises(UserError, match="max_per_class=1 needs labels"):
        open_source(f"tar:{out}/a.tar", "train", max_per_class=1)


def test_json_beside_an_image_has_its_label(out):
    write_tar(
        out / "a.tar",
        [
            *(("1.seg.png", png(1)), ("1.json", b'{"label": "dog"}')),
            *(("2.seg.png", png(2)), ("2.json", b'{"cls": "cat", "x": [1]}')),
        ],
    )
    source = open_source(f"tar:{out}/a.tar", "train")
    assert source.class_names == ["cat", "dog"] and source.labels.tolist() == [1, 0]


def test_what_is_hidden_or_no_image_is_passed_by(out):
    """As in folders; names that are no UTF-8 are names."""
    odd = b"d/\xff.png".decode(errors="surrogateescape")
    files = [("./d/1.png", png(1)), ("d/.2.png", png(2)), ("__MACOSX/d/3.png", png(3))]
    write_tar(out / "a.tar", [*files, ("d/readme.txt", b"x"), (odd, png(4))])
    for _ in range(2):  # the second time by the index that is kept
        source = open_source(f"tar:{out}/a.tar", "train")
        assert fetched(source) == [png(1), png(4)]
        assert source.labels is None and source.relative_name(1) == f"a.tar/{odd}"
        assert list(names_of(source))[1] == b"a.tar/d/\xff.png"


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_arrays_count_in_files_without_pictures(kind, out):
    arrays = {"a/1.npy": b"1", "a/2.npz": b"22", "b/3.dcm": b"333"}
    for name, files in (("x", arrays), ("y", {"a/1.png": b"p"} | arrays)):
        if kind == "tar":
            write_tar(out / f"{name}.tar", files.items())
        else:
            with zipfile.ZipFile(out / f"{name}.zip", "w") as archive:
                for member, content in files.items():
                    archive.writestr(member, content)
    source = open_source(f"{kind}:{out}/*.{kind}", "train", data_dir=str(out / "kept"))
    names = [source.relative_name(index) for index in range(len(source))]
    assert names == [*(f"x.{kind}/{name}" for name in arrays), f"y.{kind}/a/1.png"]
    assert [source.fetch(source.locate(index)[0]) for index in range(3)] == [*arrays.values()]


def test_zips_of_other_kinds(out, caplog):
    with zipfile.ZipFile(out / "a.zip", "w") as archive:
        archive.writestr("1.png", png(1), zipfile.ZIP_STORED)
        archive.writestr("2.png", png(2), zipfile.ZIP_DEFLATED)
        archive.writestr("3.png", png(3), zipfile.ZIP_LZMA)
    with caplog.at_level(logging.WARNING):
        source = open_source(f"zip:{out}/a.zip", "train")
    assert fetched(source) == [png(1), png(2)]
    assert "1 images are left out, encrypted or of another compression" in caplog.text


def test_a_zip_of_windows_may_have_backslashes(out):
    with zipfile.ZipFile(out / "a.zip", "w") as archive:
        for name in ("x\\1.png", "y\\2.png", "__MACOSX\\3.png"):
            member = zipfile.ZipInfo(name)
            member.create_system = 0
            archive.writestr(member, png(1))
    source = open_source(f"zip:{out}/a.zip", "train")
    assert source.labels.tolist() == [0, 1] and source.class_names == ["x", "y"]
    assert fetched(source) == [png(1)] * 2


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_tars_are_refused_but_not_names_that_begin_so(kind, folder, out):
    write_tar(out / "plain.tar", [("BZ.png", png(1)), ("BZh1.png", png(2))])
    assert fetched(open_source(f"tar:{out}/plain.tar", "train")) == [png(1), png(2)]
    with tarfile.open(out / "a.tar", f"w:{kind}") as archive:
        archive.add(folder)
    with pytest.raises(UserError, match="a.tar is compressed, and has no random access"):
        open_source(f"tar:{out}/a.tar", "train")


def test_an_index_is_that_of_the_file_and_not_of_its_name(out, monkeypatch):
    """Two tars of one name, size and time of change, each named from its own folder."""
    for number in (1, 2):
        (out / str(number)).mkdir()
        write_tar(out / str(number) / "a.tar", [(f"{number}.png", b"12")])
        os.utime(out / str(number) / "a.tar", (0, 0))
        monkeypatch.chdir(out / str(number))
        assert open_source("tar:a.tar", "train").relative_name(0) == f"a.tar/{number}.png"


def test_parquet_without_images_and_with_named_columns(out):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"photo": [png(1), png(2)], "mask": [b"1", b"2"], "kind": ["x", None], "n": [1, 2]}
    pq.write_table(pa.table(table), out / "a.parquet")
    with pytest.raises(UserError, match="none is known to hold images: photo, mask, kind, n; name"):
        open_source(f"parquet:{out}/a.parquet", "train")
    source = open_source(f"parquet:{out}/a.parquet#photo,n", "train")
    assert fetched(source) == [png(1), png(2)] and source.labels.tolist() == [1, 2]
    with pytest.raises(UserError, match="has no column 'pic'; it has photo, mask, kind, n"):
        open_source(f"parquet:{out}/a.parquet#pic", "train")
    pq.write_table(pa.table({"image": [png(1), None]}), out / "b.parquet")
    source = open_source(f"parquet:{out}/b.parquet", "train")
    assert source.fetch(source.locate(0)[0]) == png(1)
    with pytest.raises(ValueError, match="the row has no image"):
        source.fetch(source.locate(1)[0])


def test_records_may_be_images_as_they_are(out):
    """Without labels; what is no image among them is told when it is read."""
    write_arrayrecord(out / "a.array_record", [png(1), b"none", png(2)])
    source = open_source(f"arrayrecord:{out}/a.array_record", "train")
    assert fetched(source) == [png(1), b"none", png(2)] and source.labels is None
    assert source.relative_name(2) == "a.array_record/record 2"


def example(**features):
    import tensorflow as tf

    def feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))

    told = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=told)).SerializeToString()


def test_features_of_records_are_named_or_found(out):
    photos = [
        example(photo=[png(n)], thumb=[png(n + 1)], kind=[kind])
        for n, kind in ((1, b"dog"), (2, b"cat"))
    ]
    write_arrayrecord(out / "a", photos)
    with pytest.raises(UserError, match="none is known to hold images: kind, photo, thumb; name"):
        open_source(f"arrayrecord:{out}/a", "train")
    with pytest.raises(UserError, match="has no column 'pic'; it has "):
        open_source(f"arrayrecord:{out}/a#pic", "train")
    source = open_source(f"arrayrecord:{out}/a#photo,kind", "train")
    assert fetched(source) == [png(1), png(2)]
    assert source.labels.tolist() == [1, 0] and source.class_names == ["cat", "dog"]
    write_arrayrecord(
        out / "b",
        [
            example(image__encoded=[png(3)], image__class__label=[b"7"], image__format=[b"png"]),
            example(image__encoded=[], image__class__label=[b"1"]),
        ],
    )
    source = open_source(f"arrayrecord:{out}/b", "train")
    assert source.labels.tolist() == [7, 1] and source.fetch(source.locate(0)[0]) == png(3)
    with pytest.raises(ValueError, match="the record has no image"):
        source.fetch(source.locate(1)[0])


def test_arrayrecord_files_that_are_none_are_left_out(folder, out, caplog):
    spec = as_arrayrecord(folder, out)
    whole = out / "set-train.array_record-00001-of-00002"
    (out / "set-train.array_record-2").touch()
    (out / "set-train.array_record-3").write_bytes(whole.read_bytes()[:-70_000])
    with caplog.at_level(logging.WARNING):
        assert len(open_source(spec, "train")) == 12
    assert caplog.text.count("left out, for it cannot be read") == 2
    with pytest.raises(UserError, match="are read from disks and from gs://; mount the store"):
        arrayrecord.index_arrayrecord("s3://bucket/a.array_record")
