"""What one of two hosts alone cannot read, or has otherwise, ends both in the same mistake."""

import json

import numpy as np
import pytest
from planes import write_planes
from processes import Run
from scenes import write_classes, write_copies, write_patterns, write_voc

from ibot_jax.export import export

pytestmark = pytest.mark.slow

TINY = ("--size=32", "--crop=24", "--stride=12", "--ratios=1,1.5", "--steps=1", "--batch-size=8")
SEGMENTATION = ("segmentation", "--layout=voc", *TINY)
INCONTEXT = ("incontext", "--layout=voc", "--size=24", "--memory-size=440", "--batch-size=8")
DEPTH = ("depth", "--layout=nyu", "--crop", "16", "24", "--steps=1", "--batch-size=8", "--blocks=1")
# By name: a set, the files that are damaged on the second host, and the command.
DAMAGED = {
    "to learn from": (write_voc, "SegmentationClass/*train*", SEGMENTATION),
    "of all processes": (write_voc, "SegmentationClass/2007_val1.png", SEGMENTATION),
    "of the second": (write_voc, "SegmentationClass/2007_val5.png", INCONTEXT),
    "of the first": (write_planes, "room_nyu_te/depth_1.png", DEPTH),
    "of a pair": (write_patterns, "JPEGImages/*/*", ("spair", "--size=32", "--batch-size=8")),
    "of copies": (write_copies, "original/*", ("copydetection", "--size=16", "--batch-size=8")),
}


@pytest.fixture(scope="module")
def ends(workdir, tmp_path_factory):
    """Returns how each command ended on both hosts, by name."""
    root = tmp_path_factory.mktemp("hosts")
    hosts = [root / host for host in "ab"]
    commands = {}
    for name, (write, damaged, words) in DAMAGED.items():
        for host in hosts:
            (host / name).mkdir(parents=True)
            write(host / name)
        for path in (hosts[1] / name).glob(damaged):
            path.write_bytes(b"no image")
        commands[name] = [*words, f"--from={workdir}", f"--data={name}", f"--out={root / name}"]
    pictures = ["--data=picture", f"--out={root / 'picture'}", "--pictures=2", "--k=3"]
    commands["of a picture"] = [*INCONTEXT, f"--from={workdir}", *pictures]
    for host in hosts:
        write_voc(host / "picture")
        write_classes(host / "images")
        export(workdir, str(host / "model.npz"), to="npz")
    (hosts[1] / "picture/SegmentationClass/2007_val1.png").write_bytes(b"no image")
    linear = ["linear", f"--from={workdir}", "--data=folder:images", "--out=own", "--cache=cache"]
    linear += ["--epochs=1", "--lr=0.1", "--features=pixels", "--size=8", "--batch-size=16"]
    commands["learned"] = commands["learned again"] = linear
    with np.load(hosts[1] / "model.npz") as file:
        arrays = dict(file)
    arrays["backbone/norm/scale"] *= 2
    np.savez(hosts[1] / "model.npz", **arrays)
    knn = ["knn", "--from=model.npz", "--data=folder:images", "--k=1", f"--out={root / 'knn'}"]
    commands["weights"] = [*knn, "--batch-size=16"]
    commands["suite"] = ["suite", f"--from={workdir}", "--data-root=data", f"--out={root / 'page'}"]
    for host, folder in zip(hosts, ("SPair-71k", "DAVIS/ImageSets/2017/val.txt"), strict=True):
        (host / "data" / folder).mkdir(parents=True)
    told = json.dumps(list(commands.values()))
    statuses, _, errors = Run(2, told, folders=hosts, module="ended").finish()
    assert statuses == [0, 0], errors
    ended = [json.loads((host / "ended.json").read_text()) for host in hosts]
    return dict(zip(commands, zip(*ended, strict=True), strict=True))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_one_host_cannot_read_is_named_by_both(ends, name):
    first, second = ends[name]
    assert second and first.endswith(second) and first.startswith("process 1 on ")
    file = DAMAGED[name][1].rpartition("/")[2].strip("*")
    assert file in second and " cannot be read (" in second


def test_who_draws_no_picture_reads_nothing_for_it(ends):
    assert ends["of a picture"] == (None, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learned again", "own/linear-"),
        ("weights", "process 1 has another --from=model.npz than process 0"),
        ("suite", "process 1 has another --data-root="),
    ],
)
def test_what_hosts_have_otherwise_is_told_by_both(ends, name, message):
    for told in ends[name]:
        assert "process 1 has another " in told and message in told


def test_what_can_be_read_is_learned_from(ends):
    assert ends["learned"] == (None, None)
