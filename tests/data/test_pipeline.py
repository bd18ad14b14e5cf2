"""The pipeline: a stateless order, bad images, and an end without leftovers."""

import gc
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from archived import KINDS
from PIL import Image
from shares import blocks, in_turn
from tiny import pipeline_settings

from ibot_jax.config.plan import make_plan
from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.pipeline import eval_batches, train_batches
from ibot_jax.data.sources.opening import open_source
from ibot_jax.errors import TrainingError
from ibot_jax.parallel.shares import all_rows

KEYS = ("global_views", "local_views", "masks", "global_colors", "local_colors")


def train(source, config, rows=None, **options):
    plan = make_plan(config, len(source))
    rows = rows or all_rows(plan.batch_size)
    return train_batches(source, plan, rows, **pipeline_settings(config), **options)


def run(config, folder, *rows, **options):
    return list(train(open_source(f"folder:{folder}", "train"), config, *rows, **options))


def assert_equal_batches(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(one[key], other[key])


def corrupt(folder, *names):
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:200])  # truncated


def worker_processes():
    """The live worker processes that this process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            parent = (status.parent / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if b"ibot_jax.data.make.workers" in status.read_bytes() and int(parent) == own_id():
                found.append(status.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def own_id():
    return int(Path("/proc/self").resolve().name)


@pytest.fixture
def folder(make_folder):
    """Two classes of ten images: with batches of 8, two steps an epoch and 4 images left over."""
    return make_folder("a", "b")


@pytest.fixture
def flat_folder(tmp_path):
    """20 images, each of one grey level of its own, from which no view can differ."""
    for index in range(20):
        Image.new("RGB", (12, 12), (index * 10,) * 3).save(tmp_path / f"{index:02d}.png")
    return tmp_path


def test_shapes_and_dtypes(config, folder):
    config.data.global_size = (16, 24)
    config.data.global_views = 3
    batches = run(config, folder)
    assert len(batches) == 4  # 2 epochs of 20 // 8 steps
    for batch in batches:
        assert tuple(batch) == KEYS
        assert batch["global_views"].shape == (8, 3, 16, 24, 3)
        assert batch["local_views"].shape == (8, 2, 8, 8, 3)
        assert batch["masks"].shape == (8, 3, 4, 6)
        assert batch["global_colors"].shape == (8, 3, 12)
        assert batch["local_colors"].shape == (8, 2, 12)
        dtypes = [np.uint8, np.uint8, bool, np.float32, np.float32]
        assert [batch[key].dtype for key in KEYS] == dtypes


def test_there_may_be_no_local_views_and_one_channel(config, folder):
    config.data.update(local_views=0, channels=1, mean=(0.5,), std=(0.5,))
    source = open_source(f"folder:{folder}", "train", channels=1)
    batch = next(train(source, config))
    assert batch["global_views"].shape == (8, 2, 16, 16, 1)
    assert batch["local_views"].shape == (8, 0, 8, 8, 1)


def test_a_run_repeats_itself_and_another_seed_differs(config, folder):
    first = run(config, folder)
    config.data.workers = 3
    assert_equal_batches(run(config, folder), first)
    config.seed = 1
    other = run(config, folder)
    for key in KEYS:
        assert not np.array_equal(other[0][key], first[0][key])


@pytest.mark.parametrize("start_step", [1, 2, 3])
def test_a_resumed_run_sees_the_rest_of_the_stream(config, folder, start_step):
    assert_equal_batches(
        run(config, folder, start_step=start_step), run(config, folder)[start_step:]
    )


@pytest.mark.parametrize(("divide", "count"), [(blocks, 4), (in_turn, 2)])
def test_processes_share_the_rows_of_the_same_batches(config, folder, divide, count):
    whole = run(config, folder)
    for rows in divide(config.batch_size, count):
        own = [{key: batch[key][rows.numbers] for key in KEYS} for batch in whole]
        assert_equal_batches(run(config, folder, rows), own)


@pytest.mark.parametrize("kind", KINDS)
def test_images_in_larger_files_make_the_batches_of_their_folder(
    kind, config, folder, tmp_path, monkeypatch
):
    """Bit for bit, resumed and divided among processes, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    out.mkdir()
    source = open_source(KINDS[kind](folder, out), "train")
    expected = run(config, folder)
    assert_equal_batches(list(train(source, config)), expected)
    for rows in in_turn(8, 2):
        some = run(config, folder, rows)
        assert_equal_batches(list(train(source, config, rows, start_step=1)), some[1:])


def test_masks_are_dealt_out_over_whole_batches(config, folder):
    """Whoever makes which rows, and wherever the run goes on."""
    config.masks.update(kind="dinov3", share=0.3, range=(0.25, 0.75))
    whole = run(config, folder)
    rows = {tuple(batch["masks"].any((2, 3)).ravel()) for batch in whole}
    assert len(rows) == len(whole)  # each batch is dealt anew
    for batch in whole:  # 4 of 16 views, in steps of an eighth of 16 patches
        assert sorted(batch["masks"].sum((2, 3)).ravel()) == [0] * 12 + [6, 8, 10, 12]
    assert_equal_batches(run(config, folder, start_step=3), whole[3:])
    for rows in in_turn(config.batch_size, 2):
        own = [{key: batch[key][rows.numbers] for key in KEYS} for batch in whole]
        assert_equal_batches(run(config, folder, rows), own)
    config.masks.start = "1 epochs"
    assert not any(batch["masks"].any() for batch in run(config, folder)[:2])


def of_size(config, folder, side, **options):
    """The batches of a run that has views of one size throughout."""
    config = config.copy_and_resolve_references()
    config.data.update(global_size=(side, side), local_size=(side // 2, side // 2))
    config.high_res.last = ""
    return run(config, folder, **options)


def test_from_a_step_on_views_are_larger_and_else_what_they_were(config, folder):
    config.duration = "3 epochs"
    config.high_res.update(last="2 steps", global_sides=(24,), local_sides=(12,))
    small, large = of_size(config, folder, 16), of_size(config, folder, 24)
    expected = small[:4] + large[4:]
    assert [batch["masks"].shape[2:] for batch in expected] == [(4, 4)] * 4 + [(6, 6)] * 2
    assert_equal_batches(run(config, folder), expected)
    for step in (3, 4, 5, 6):
        assert_equal_batches(run(config, folder, start_step=step), expected[step:])
    for rows in in_turn(config.batch_size, 2):
        own = [{key: batch[key][rows.numbers] for key in KEYS} for batch in expected]
        assert_equal_batches(run(config, folder, rows), own)
    batches = train(open_source(f"folder:{folder}", "train"), config)
    for _ in range(5):
        next(batches)
    gc.collect()
    assert len(worker_processes()) == 1  # those of the first size have ended


def test_each_batch_has_one_of_several_sizes(config, folder):
    config.duration = "6 epochs"
    sizes = dict(global_sides=(16, 24), local_sides=(8, 12), shares=(1.0, 2.0))
    config.high_res.update(last="100%", **sizes)
    of_sides = {side: of_size(config, folder, side) for side in (16, 24)}
    whole = run(config, folder)
    sides = [batch["global_views"].shape[2] for batch in whole]
    draws = np.random.default_rng([config.seed, 0, 0, 6]).random(12)
    assert sides == [16 if draw < 1 / 3 else 24 for draw in draws]
    assert set(sides) == {16, 24}
    assert_equal_batches(whole, [of_sides[side][step] for step, side in enumerate(sides)])
    for step in (1, 7, 11):
        assert_equal_batches(run(config, folder, start_step=step), whole[step:])


def test_every_epoch_is_another_permutation(config, flat_folder):
    config.batch_size = 10
    config.data.update(jitter=0.0, gray=0.0, blur=(0.0, 0.0, 0.0), solarize=(0.0, 0.0, 0.0))
    levels = [batch["global_views"][:, 0, 0, 0, 0] for batch in run(config, flat_folder)]
    epochs = np.concatenate(levels).reshape(2, 20)
    for epoch in epochs:
        assert sorted(epoch) == list(range(0, 200, 10))
    assert epochs[0].tolist() != epochs[1].tolist() != sorted(epochs[1])


def test_one_image_gets_other_views_and_masks_in_another_epoch(config, make_folder):
    folder = make_folder("a", count=1)
    config.batch_size = 1
    first, second = run(config, folder)
    for key in KEYS:
        assert not np.array_equal(first[key], second[key])


def test_masks_begin_at_their_step(config, folder):
    config.masks.update(ratios=(0.5,), variances=(0.0,), start="3 steps")
    assert [bool(batch["masks"].any()) for batch in run(config, folder)] == [False] * 3 + [True]


def test_a_bad_image_is_replaced_by_another_and_named_once(config, flat_folder, caplog):
    config.batch_size = 20
    config.data.update(jitter=0.0, gray=0.0, blur=(0.0, 0.0, 0.0), solarize=(0.0, 0.0, 0.0))
    healthy = run(config, flat_folder)
    (flat_folder / "07.png").write_bytes(b"this is no image")
    config.data.max_bad_share = 0.06
    source = open_source(f"folder:{flat_folder}", "train")
    batches = train(source, config)
    with caplog.at_level(logging.WARNING):
        found = list(batches)
    assert batches.bad_images == 1
    assert ["07.png" in record.getMessage() for record in caplog.records] == [True]
    for batch, expected in zip(found, healthy, strict=True):
        was_bad = expected["global_views"][:, 0, 0, 0, 0] == 70
        np.testing.assert_array_equal(
            batch["global_views"][~was_bad], expected["global_views"][~was_bad]
        )
        assert batch["global_views"][was_bad][0, 0, 0, 0, 0] in set(range(0, 200, 10)) - {70}
    assert_equal_batches(run(config, flat_folder, start_step=1), found[1:])


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "bomb", "gone"])
def test_every_kind_of_bad_image_is_survived(config, folder, kind, caplog):
    path = folder / "a/003.png"
    source = open_source(f"folder:{folder}", "train")
    if kind == "truncated":
        corrupt(folder, "a/003.png")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if kind == "empty" else b"GIF89a and then nothing")
    config.batch_size = 20
    config.data.max_bad_share = 0.05
    batches = train(source, config)
    assert len(list(batches)) == 2
    assert batches.bad_images == 1
    assert "a/003.png" in caplog.text


def test_too_many_bad_images_end_the_run(config, folder):
    corrupt(folder, "a/001.png", "a/002.png", "b/003.png")
    config.batch_size = 20
    config.data.max_bad_share = 0.1  # two of twenty
    with pytest.raises(TrainingError) as error:
        run(config, folder)
    message = str(error.value)
    assert "\n" not in message
    for part in ("3 images", "data.max_bad_share=0.1", "b/003.png"):
        assert part in message


def test_a_folder_of_nothing_but_bad_images_ends_the_run(config, folder):
    corrupt(folder, *(f"{name}/{index:03d}.png" for name in "ab" for index in range(10)))
    config.data.max_bad_share = 1.0
    with pytest.raises(TrainingError, match="16 images in a row"):
        run(config, folder)


def test_a_killed_worker_ends_the_run_with_a_reason(config, folder):
    source = open_source(f"folder:{folder}", "train")
    config.duration = "1000 steps"
    batches = train(source, config)
    next(batches)
    subprocess.run(["kill", "-9", *worker_processes()], check=True)
    with pytest.raises(TrainingError, match="worker process.*-9"):
        list(batches)


def test_dropping_the_iterator_leaves_nothing_behind(config, folder):
    config.duration = "1000 epochs"
    source = open_source(f"folder:{folder}", "train")
    for _ in range(3):
        batches = train(source, config)
        next(batches)
        assert len(worker_processes()) == 1
        del batches
        gc.collect()
        assert not worker_processes()
    gc.collect()
    time.sleep(0.2)
    threads = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(5):
        next(train(source, config))
    gc.collect()
    time.sleep(0.2)
    assert len(list(Path("/proc/self/task").iterdir())) <= threads + 2


@pytest.mark.slow
def test_a_program_may_end_in_the_middle_of_an_epoch(folder):
    code = f"""
from ibot_jax.config import get_config
from ibot_jax.config.plan import make_plan
from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.pipeline import eval_batches, train_batches
from ibot_jax.data.sources.opening import open_source
from ibot_jax.models.architectures import geometry_of
from ibot_jax.parallel.shares import all_rows
config = get_config()
config.batch_size = 8
source = open_source("folder:{folder}", "train")
batches = train_batches(
    source,
    make_plan(config, len(source)),
    all_rows(8),
    seed=config.seed,
    data=config.data,
    masks=config.masks,
    geometry=geometry_of(config.model),
)
next(batches)
evaluation = eval_batches(source, CentralView((16, 16), (16, 16)), all_rows(4))
next(evaluation)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("divide", "count"), [(blocks, 1), (blocks, 3), (in_turn, 3)])
def test_evaluation_sees_every_image_once_in_order(folder, divide, count):
    source = open_source(f"folder:{folder}", "train")
    shares = divide(4 * count, count)
    view = CentralView((16, 12), (16, 16))
    batches = [list(eval_batches(source, view, rows)) for rows in shares]
    (number,) = {len(own) for own in batches}
    kinds = {"images": ((16, 12, 3), np.uint8), "labels": ((), np.int32), "valid": ((), bool)}
    joined = {
        key: np.empty((number, 4 * count, *shape), dtype) for key, (shape, dtype) in kinds.items()
    }
    for rows, own in zip(shares, batches, strict=True):
        for index, batch in enumerate(own):
            for key, (shape, dtype) in kinds.items():
                assert (batch[key].shape, batch[key].dtype) == ((4, *shape), dtype)
                joined[key][index, rows.numbers] = batch[key]
    images, labels, valid = (joined[key].reshape(-1, *kinds[key][0]) for key in kinds)
    assert valid.sum() == 20 and (labels[~valid] == -1).all()
    np.testing.assert_array_equal(labels[valid], source.labels)
    for index in range(20):
        small = Image.open(source.describe(index)).resize(
            (19, 16), Image.Resampling.BICUBIC
        )  # 24 * 16 / 20
        expected = np.asarray(small)[:, 4:16]  # round(3.5) is 4
        np.testing.assert_array_equal(images[valid][index], expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluation_starts_as_many_workers_as_it_is_told(folder, workers):
    source = open_source(f"folder:{folder}", "train")
    before = len(psutil.Process().children())
    batches = eval_batches(source, CentralView((8, 8), (8, 8)), all_rows(7), workers=workers)
    next(batches)
    assert len(psutil.Process().children()) - before == workers
    batches.close()


def test_evaluation_marks_bad_images_as_not_valid(folder, caplog):
    corrupt(folder, "b/000.png")
    source = open_source(f"folder:{folder}", "train")
    valid = np.concatenate(
        [batch["valid"] for batch in eval_batches(source, CentralView((8, 8), (8, 8)), all_rows(7))]
    )
    assert valid.tolist() == [True] * 10 + [False] + [True] * 9 + [False]
    assert "b/000.png" in caplog.text
