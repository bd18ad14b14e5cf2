"""The command line of all tasks: help, the mistakes that they share, and what they write."""

import argparse
import json
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest

from ibot_jax import export
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.common import results
from ibot_jax.evaluate.common.opening import settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.weights.model import Model


def test_help_lists_the_tasks_and_what_each_does(capsys):
    assert command.main(["--help"]) == 0
    out = capsys.readouterr().out
    for task in command.TASKS:
        assert f"\n  {task} " in out + "\n"


@pytest.mark.parametrize("task", command.TASKS)
def test_every_task_explains_itself(task, capsys):
    with pytest.raises(SystemExit) as exited:
        command.main([task, "--help"])
    assert exited.value.code == 0
    out = capsys.readouterr().out
    assert "Data: " in out and f"python -m ibot_jax.evaluate {task} --from=" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--speed=3"], "unrecognized arguments: --speed=3; see --help"),
        (["--from=nowhere"], "nowhere does not exist; give a run's workdir, a checkpoint, an"),
        (["--step=5"], "step=5 is not in "),
        (["--test-split=val"], "--test-split='val' is no subfolder of "),
        (["--data=folder:nowhere"], "--data=folder:nowhere: data.source="),
        (["--data=synthetic:64"], "has no labels in --train-split=train; this task needs"),
        (["--workers=1000000"], "--workers: 1000000 is more than 16 for each of the"),
        (["--batch-size=12"], "--batch-size=12 is no multiple of the 8 devices"),
        (["--blocks=9"], "--blocks=9 is more than the 2 of the model"),
        (["--size=2"], "--size=2 2 is less than a patch of 4 pixels"),
        (["--cache=gs://bucket/x"], "--cache=gs://bucket/x must be a local folder"),
        (["--process_id=1"], "--coordinator_address and --num_processes must be given, too"),
    ],
)
def test_mistakes_are_one_line_and_status_2(evaluate, flags, message):
    status, out, err = evaluate("knn", *flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_task_that_is_none_is_told(capsys):
    assert command.main(["knm"]) == 2
    assert capsys.readouterr().err.startswith("error: 'knm' is no task; there are knn")


def test_splits_with_other_classes_are_refused(evaluate, images, tmp_path):
    for name in ("train/red", "train/blue", "test/red", "test/pink"):
        (tmp_path / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
        original = pathlib.Path(images) / name.replace("pink", "green")
        (tmp_path / "odd" / name).symlink_to(original)
    status, _, err = evaluate("knn", f"--data=folder:{tmp_path / 'odd'}")
    assert status == 2
    assert "--test-split='test' of" in err and "train: only one of them has blue" in err


def test_weights_of_another_architecture_are_refused(evaluate, workdir, tmp_path):
    export.export(workdir, str(tmp_path / "mine.npz"), to="npz")
    with np.load(tmp_path / "mine.npz") as file:
        arrays = dict(file)
    arrays["backbone/norm/scale"] = np.ones(99, np.float32)
    np.savez(tmp_path / "odd.npz", **arrays)
    status, _, err = evaluate("knn", f"--from={tmp_path / 'odd.npz'}")
    assert status == 2
    assert "odd.npz holds weights of another architecture than its config" in err
    assert "backbone/norm/scale is (99,), not (16,)" in err


def test_an_export_is_cut_as_its_run(evaluate, workdir, tmp_path):
    """The same features, so the second one comes out of the cache."""
    export.export(workdir, str(tmp_path / "mine.npz"), to="npz")
    assert evaluate("knn", "--k=1")[0] == 0
    assert evaluate("knn", "--k=1", f"--from={tmp_path / 'mine.npz'}")[0] == 0
    assert len(list((tmp_path / "cache").iterdir())) == 2  # train and test
    status, _, err = evaluate("knn", f"--from={tmp_path / 'mine.npz'}", "--weights=student")
    assert status == 2 and "holds no student, only the teacher" in err


@pytest.mark.slow
def test_teacher_student_random_weights_and_pixels_differ(evaluate, tmp_path):
    """For each of the four the features of both splits are kept."""
    for flag in ("--weights=teacher", "--weights=student", "--weights=random", "--features=pixels"):
        assert evaluate("knn", "--k=1", flag)[0] == 0
    assert len(list((tmp_path / "cache").iterdir())) == 8


def settled(**flags):
    """Returns where results go and which step is meant, as the command finds them."""
    args = argparse.Namespace(**{"out": None, "step": "latest", "weights": "teacher"} | flags)
    results.settle(args)
    return args.out, args.step


def test_results_lie_beside_what_was_evaluated(workdir, tmp_path):
    """Of every run, step, export and kind of weights there are others; each step by its number."""
    home = f"{workdir}/evaluations"
    assert settled(source=workdir) == (f"{home}/3", "3")
    assert settled(source=f"{workdir}/checkpoints/3") == (f"{home}/3", "3")
    assert settled(source=workdir, step="best", weights="student") == (f"{home}/3-student", "3")
    assert settled(source=workdir, out="here") == ("here", "3")
    for name in ("mine.npz", "mine"):
        export.export(workdir, str(tmp_path / name), to="npz" if "." in name else "orbax")
        found, step = settled(source=str(tmp_path / name), weights="random")
        assert (found, step) == (f"{tmp_path}/evaluations/{name}-random", "latest")
    with pytest.raises(UserError, match=r"nowhere does not exist; give a run's workdir"):
        settled(source=str(tmp_path / "nowhere"))


def read(path):
    return json.loads(path.read_text())


def test_two_runs_of_the_same_name_do_not_meet(workdir, images, evaluate, tmp_path):
    """And in the same --out both are there: results are told apart by what was evaluated."""
    flags = [f"--data=folder:{images}", "--k=1", f"--cache={tmp_path}/cache", "--batch-size=16"]
    for side in "ab":
        run = shutil.copytree(workdir, tmp_path / side / "mine")
        assert command.main(["knn", f"--from={run}", *flags]) == 0
        assert read(run / "evaluations/3/knn.json")["settings"]["from"] == str(run)
    for weights in ("teacher", "student"):
        assert evaluate("knn", "--k=1", f"--weights={weights}")[0] == 0
    kept = [read(path) for path in (tmp_path / "out").glob("knn-*.json")]
    assert {found["settings"]["weights"] for found in kept} == {"teacher", "student"}
    assert len({found["settings"]["sha256"] for found in kept}) == 2
    assert read(tmp_path / "out/knn.json")["settings"]["weights"] == "student"  # the latest


def test_only_a_repetition_is_replaced_and_that_is_said(evaluate, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "knn.json").write_text('{"task": "knn"}')  # of an earlier version
    said = [evaluate("knn", f"--k={k}")[1] for k in (1, 2, 1)]
    assert ["replaces" in text for text in said] == [False, False, True]
    kept = [read(path) for path in out.glob("knn-*.json")]
    assert sorted(str(found.get("settings", {}).get("k")) for found in kept) == [
        "None",
        "[1]",
        "[2]",
    ]
    assert len(list((out / "tensorboard").iterdir())) == 2
    assert all(len(list(path.iterdir())) == 1 for path in (out / "tensorboard").iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        ("knn", "--k=1,3", "--temperature=0.2", "--size", "12", "16", "--features=mean"),
        ("logistic", "--labels=all,50%", "--seed=3", "--l2=0.01", "--max-train-per-class=9"),
    ],
)
def test_the_command_in_a_report_finds_the_same(evaluate, tmp_path, flags):
    assert evaluate(*flags)[0] == 0
    first = read(tmp_path / f"out/{flags[0]}.json")
    program, *words = shlex.split(first["command"])
    assert (program, *words[:2]) == ("python", "-m", "ibot_jax.evaluate")
    assert command.main([*words[2:], f"--out={tmp_path / 'again'}"]) == 0
    again = read(tmp_path / f"again/{flags[0]}.json")
    assert again == first
    assert first["settings"]["test_split"] == "test"
    # Another size is the model's own view in proportion, which no single side of an image says.
    assert first["settings"]["resize"] == (None if "--size" in flags else 18)


def test_a_report_is_a_table_and_json(tmp_path, capsys):
    rows = [{"k": 10, "T": 0.005, "top1": 12.345}, {"k": 200, "T": 0.25, "top1": 100.0}]
    report = Report("knn", {"step": 4, "k": (10, 200)}, {"top1": 100.0}, rows)
    report.publish(str(tmp_path / "new/out"))
    out = capsys.readouterr().out
    assert out.startswith("  k      T    top1\n 10  0.005   12.35\n200   0.25  100.00\n")
    content = json.loads((tmp_path / "new/out/knn.json").read_text())
    assert content["metrics"] == {"top1": 100.0} and content["settings"]["step"] == 4
    assert content["rows"] == rows


def test_weights_of_no_known_step_are_reported_without(tmp_path):
    """As those that were converted; TensorBoard then gets step 0."""
    args = argparse.Namespace(source="vit.npz", step="latest", k=(1,), out=None, cache="")
    model = Model(None, "vit.npz", {"weights": "teacher"})
    found = settings(args, model)
    assert found == {"from": "vit.npz", "k": (1,), "weights": "teacher"}
    Report("knn", found, {"top1": 50.0}, [{"top1": 50.0}]).publish(str(tmp_path))


def test_a_folder_that_cannot_be_written_is_told(evaluate, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = evaluate("knn", "--k=1", f"--out={tmp_path / 'file'}")
    assert status == 2
    assert f"--out={tmp_path / 'file'} cannot be written" in err


@pytest.mark.parametrize(
    ("task", "pattern", "message"),
    [
        (
            "knn",
            "train/*/*",
            "1 of the 36 images of .*/train can be read, and --k=3 needs 3",
        ),
        (
            "cluster",
            "test/*/*",
            "1 of the 15 images of .* can be read, and --clusters=3 needs",
        ),
        ("knn", "test/*/*", "0 of the 15 images of .* can be read, and --test-split=test needs 1"),
    ],
)
def test_too_few_readable_images_are_one_line(evaluate, images, tmp_path, task, pattern, message):
    shutil.copytree(images, tmp_path / "images")
    kept = int(message[0])
    for path in sorted((tmp_path / "images").glob(pattern))[kept:]:
        path.write_bytes(b"no picture at all")
    flags = {"knn": ["--k=3"], "cluster": ["--by=kmeans"]}[task]
    status, out, err = evaluate(task, f"--data=folder:{tmp_path / 'images'}", *flags)
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and re.search(f"^error: {message}", lines[0])
