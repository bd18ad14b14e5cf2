"""Parts of files that a list names: pages, frames, windows, regions of slides."""

import io
import os

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.pipeline import eval_batches
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.unreadable import UnreadableImage
from ibot_jax.data.sources.opening import open_source
from ibot_jax.errors import UserError
from ibot_jax.parallel.shares import all_rows
from ibot_jax.tools import data

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 48, 64, 3)).astype(np.uint8)


@pytest.fixture
def listed(tmp_path):
    """Returns a function from the text of a list to its source; files lie beside it."""

    def open_list(text, name="list.csv", **options):
        (tmp_path / name).write_text(text)
        return open_source(f"list:{tmp_path}/{name}", "train", **options)

    return open_list


def read(source, index, **decoding):
    located, _ = source.locate(index)
    return EncodedImage(source.fetch(located), Decoding(**decoding)).decode()


def test_pages_and_frames_are_images(listed, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[..., 0], photometric="minisblack")
    np.save(tmp_path / "b.npy", PIXELS)
    frames = [Image.fromarray(frame) for frame in PIXELS]
    frames[0].save(tmp_path / "c.webp", save_all=True, append_images=frames[1:], lossless=True)
    source = listed("path,label,frame\na.tif,x,5\nb.npy,y,2\nc.webp,x,6\na.tif,y,\n")
    assert source.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(read(source, 0, channels=1), PIXELS[5, ..., 0])
    np.testing.assert_array_equal(read(source, 1), PIXELS[2])
    np.testing.assert_array_equal(read(source, 2), PIXELS[6])
    np.testing.assert_array_equal(read(source, 3, channels=1), PIXELS[0, ..., 0])
    assert source.relative_name(0) == "a.tif frame=5" and source.relative_name(3) == "a.tif"
    assert source.describe(1) == f"{tmp_path}/b.npy frame=2"
    assert len(set(source.stamps())) == 5


def test_windows_are_images(listed, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[0], photometric="rgb", tile=(16, 16))
    Image.fromarray(PIXELS[1]).save(tmp_path / "b.png")
    rows = '{"path": "a.tif", "x": 3, "y": 5, "w": 20, "h": 10}\n{"path": "b.png"}\n'
    source = listed(rows, "list.jsonl")
    np.testing.assert_array_equal(read(source, 0), PIXELS[0, 5:15, 3:23])
    np.testing.assert_array_equal(read(source, 1), PIXELS[1])
    assert source.describe(0) == f"{tmp_path}/a.tif x=3 y=5 w=20 h=10"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "a.tif,one,,,,,",
            "frame, x, y, w, h, level of a.tif are 'one', '', '', '', '', ''; write",
        ),
        ("a.tif,-1,,,,,", "of a.tif are '-1'"),
        ("a.tif,,1,2,3,,", "the window of a.tif is '1', '2', '3', ''; write x, y, w, h, all"),
        ("a.tif,,1,2,0,4,", "the last two above 0"),
    ],
)
def test_a_part_that_is_none_is_one_line(row, message, listed):
    with pytest.raises(UserError, match=message):
        listed(f"path,frame,x,y,w,h,level\n{row}\n")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_windows_of_pages(listed, tmp_path, dtype):
    values = PIXELS[..., 0].astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", tile=(16, 16))
    source = listed("path,frame,x,y,w,h\na.tif,4,3,5,10,20\na.tif,,3,5,10,20\n")
    for index, page in enumerate((4, 0)):
        found = read(source, index, channels=1, range=255)
        np.testing.assert_array_equal(found, values[page, 5:25, 3:13])


def test_windows_of_what_is_decoded_whole_have_its_limit(listed, tmp_path):
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", PIXELS[0], photometric="rgb", tile=(16, 16))
    source = listed("path,x,y,w,h\na.png,3,5,10,20\nb.tif,3,5,10,20\n")
    with pytest.raises(UnreadableImage, match="64 x 48 pixels are more than data.max_pixels=1,000"):
        read(source, 0, max_pixels=1000)
    assert read(source, 1, max_pixels=1000).shape == (20, 10, 3)


def test_windows_of_files_behind_a_url(listed):
    file = io.BytesIO()
    tifffile.imwrite(file, PIXELS[0], photometric="rgb", tile=(16, 16))
    fsspec.filesystem("memory").pipe("/excerpts/a.tif", file.getvalue())
    rows = ("memory://excerpts/a.tif,3,5,20,10", "memory://excerpts/a.svs,3,5,20,10")
    source = listed("\n".join(("path,x,y,w,h", *rows)))
    np.testing.assert_array_equal(read(source, 0), PIXELS[0, 5:15, 3:23])
    with pytest.raises(UnreadableImage, match="slides and videos are read from disks alone"):
        read(source, 1)


def test_workers_read_parts_of_files(listed, tmp_path, caplog):
    """And name those that are none."""
    np.save(tmp_path / "a.npy", PIXELS)
    source = listed("path,label,frame\na.npy,x,5\na.npy,x,9\na.npy,y,2\n")
    view = CentralView((48, 48), (48, 48))
    (batch,) = eval_batches(source, view, all_rows(3), Decoding(), workers=1)
    assert batch["valid"].tolist() == [True, False, True]
    assert batch["labels"].tolist() == [0, -1, 1]
    np.testing.assert_array_equal(batch["images"][::2], PIXELS[[5, 2], :, 8:56])
    assert f"skipped {tmp_path}/a.npy frame=9: it has 7 frames, and frame 9" in caplog.text


def test_a_look_at_parts_of_files(listed, tmp_path, capsys):
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    listed("path,x,y,w,h\na.png,0,0,32,48\na.png,32,0,32,48\na.png,0,0,32,48\n")
    assert data.main([f"list:{tmp_path}/list.csv"]) == 0
    shown = capsys.readouterr().out
    assert "widths 32 to 32 pixels" in shown and "heights 48 to 48" in shown
    assert shown.count("has the bytes of another one") == 1
    pixels = np.append(PIXELS[0].reshape(-1, 3), PIXELS[0, :, :32].reshape(-1, 3), axis=0) / 255
    means = ",".join(str(round(mean, 4)) for mean in pixels.mean(axis=0).tolist())
    assert f"--config.data.mean={means} " in shown


def write_video(path, frames, **options):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, **options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_frames_of_a_video_by_number(listed, tmp_path):
    write_video(tmp_path / "a.mkv", PIXELS)
    rows = ("a.mkv,5,,,,", "a.mkv,0,,,,", "a.mkv,3,8,4,20,30", "a.mkv,7,,,,")
    source = listed("\n".join(("path,frame,x,y,w,h", *rows)))
    np.testing.assert_array_equal(read(source, 0), PIXELS[5])
    np.testing.assert_array_equal(read(source, 1), PIXELS[0])  # backwards
    np.testing.assert_array_equal(read(source, 2), PIXELS[3, 4:34, 8:28])
    with pytest.raises(UnreadableImage, match="it has 7 frames, and frame 7 .* is none"):
        read(source, 3)
    with pytest.raises(UnreadableImage, match="a list names frames, in a column frame"):
        read(listed("path,x,y,w,h\na.mkv,8,4,20,30\n"), 0)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.mpg", "mpeg2video")]
)
def test_frames_between_key_frames_are_what_decoding_all_gives(name, codec, listed, tmp_path):
    """With B-frames, which lie in another order than they are shown in, across key frames, too."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            pixels = np.roll(PIXELS[0], number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(tmp_path / name)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    source = listed("path,frame\n" + "".join(f"{name},{number}\n" for number in range(40)))
    assert len(expected) == 40
    for number in np.random.default_rng(0).permutation(40).tolist():
        np.testing.assert_array_equal(read(source, number), expected[number], err_msg=number)


def write_slide(path):
    """Writes a TIFF of two levels in tiles, which OpenSlide reads: Philips, Aperio and others."""
    whole = np.kron(PIXELS[0], np.ones((8, 8, 1), np.uint8))  # 384 x 512
    with tifffile.TiffWriter(path) as writer:
        for pixels in (whole, whole[::2, ::2]):
            writer.write(
                pixels,
                photometric="rgb",
                tile=(64, 64),
                subfiletype=int(pixels is not whole),
                metadata=None,
            )
    return whole


def test_regions_of_a_slide(listed, tmp_path):
    pytest.importorskip("openslide")
    whole = write_slide(tmp_path / "a.tif")
    source = listed(
        "path,x,y,w,h,level\na.tif,24,40,100,60,0\na.tif,24,40,100,60,1\na.tif,0,0,9,9,2\n"
        "a.tif,500,0,13,9,0\n"
    )
    np.testing.assert_array_equal(read(source, 0), whole[40:100, 24:124])
    np.testing.assert_array_equal(read(source, 1), whole[40:160:2, 24:224:2])
    with pytest.raises(UnreadableImage, match="it has 2 levels, and level 2 is none"):
        read(source, 2)
    with pytest.raises(UnreadableImage, match="512 x 384 pixels, and the window x=500 .* beyond"):
        read(source, 3)
    with pytest.raises(UnreadableImage, match="of a slide a list names windows, in columns x"):
        read(listed("path,frame\na.svs,1\n"), 0)


@pytest.mark.parametrize(
    ("package", "row", "extra"),
    [("av", "a.mp4,1,,,,,", "video"), ("openslide", "a.svs,,0,0,8,8,0", "slides")],
)
def test_a_missing_package_names_the_extra(package, row, extra, listed, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    source = listed(f"path,frame,x,y,w,h,level\n{row}\n")
    with pytest.raises(UnreadableImage, match=rf"needs {package}: .*'ibot-jax\[{extra}\]'"):
        read(source, 0)


def test_files_are_closed(listed, tmp_path):
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    source = listed("path,frame\na.png,0\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read(source, 0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
