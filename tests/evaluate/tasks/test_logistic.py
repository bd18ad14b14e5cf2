"""The task `logistic`, from the command line to its report."""

import json

from PIL import Image


def test_colours_are_told_apart_by_few_labels(evaluate, tmp_path):
    names = ("blue/05.png", "green/05.png", "/elsewhere/train/red/05.png")
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
    labels = f"8%,{tmp_path / 'list.txt'}"
    flags = ("--l2=1e-3,1e-5", "--features=pixels", "--max-steps=50")
    status, out, err = evaluate("logistic", f"--labels={labels}", *flags)
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "out/logistic.json").read_text())
    assert report["metrics"]["8%/top1"] == 100.0
    assert [(row["labels"], row["images"], row["l2"]) for row in report["rows"]] == [
        (part, count, l2)
        for part, count in zip(labels.split(","), (3, 3), strict=True)
        for l2 in (1e-3, 1e-5)
    ]
    assert "1e-05" in out


def test_a_list_without_a_class_is_refused(evaluate, tmp_path):
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for split in ("train", "test"):
        for name in ("a/a.png", "b/b.png"):
            Image.new("RGB", (16, 16)).save(tmp_path / "data" / split / name)
    (tmp_path / "list.txt").write_text("a.png\n")
    status, _, err = evaluate(
        "logistic",
        f"--data=folder:{tmp_path / 'data'}",
        f"--labels={tmp_path / 'list.txt'}",
        "--features=pixels",
    )
    assert status == 2
    assert err.endswith("has images of 1 of the 2 classes only\n")
