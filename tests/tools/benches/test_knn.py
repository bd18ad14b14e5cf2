"""The command that measures k-NN: memory that is the features' and a bounded rest, and mistakes."""

import re

from ibot_jax.tools import bench


def figure(out, name):
    return float(re.search(rf"{name} +([\d.,]+)", out)[1].replace(",", ""))


def test_memory_is_the_features_and_half_a_gibibyte(capsys):
    """ImageNet's number of images on 8 devices: 512 MiB of similarities, whatever the width."""
    for width in (64, 384):
        assert bench.main(["knn", f"--width={width}", "--compile-only"]) == 0
        out = capsys.readouterr().out
        assert figure(out, "training features of a device") == -(-1_281_167 // 8)
        features = 1_281_167 / 8 * width * 4 / 2**30
        assert features < figure(out, "memory of a device, by compiler") < features + 0.6


def test_a_chunk_is_timed(capsys):
    sizes = ("--train=500", "--test=40", "--width=8", "--classes=3")
    assert bench.main(["knn", *sizes]) == 0
    out = capsys.readouterr().out
    assert figure(out, "queries at a time") == 40
    assert figure(out, "a chunk") >= 0


def test_mistakes_are_one_line(capsys):
    assert bench.main(["knn", "--k=9", "--train=5"]) == 2
    assert capsys.readouterr().err == "error: --k=9 is more than the --train=5 features\n"
    assert bench.main(["knn", "--speed=9"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --speed=9; see --help\n"
