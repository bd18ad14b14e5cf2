"""What a run writes: metrics.jsonl, TensorBoard, and lines on the screen."""

import io
import json
import math
import re
import time

import numpy as np
import pytest
from disk import full_disk
from etils import epath
from PIL import Image

from ibot_jax.config.plan import Plan
from ibot_jax.errors import TrainingError
from ibot_jax.runs.reporting.goodput import WORDS
from ibot_jax.runs.reporting.loggers import Loggers
from ibot_jax.runs.reporting.reporter import Reporter
from ibot_jax.weights.run_metrics import read_rows

PLAN = Plan(batch_size=8, steps_per_epoch=10, total_steps=40)
METRICS = {
    "loss": 5.5,
    "class_loss": 3.0,
    "patch_loss": 2.5,
    "teacher_entropy": 1.25,
    "student_entropy": 1.5,
    "teacher_mean_entropy": 2.0,
}

EVALUATION = {
    "knn_top1": 25.04,
    "knn_top5": 50.0,
    "probe_top1": 30.0,
    "probe_top5": 60.0,
    "feature_rank": 12.34,
    "prototypes_used": 0.125,
    "patch_prototypes_used": 0.25,
    "prototype_nmi": 30.0,
}
UNLABELLED = {name: EVALUATION[name] for name in list(EVALUATION)[4:7]}


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def reporter(workdir, start_step=0):
    return Reporter(workdir, PLAN, start_step=start_step)


def test_lines_of_metrics_have_step_epoch_and_values(workdir):
    report = reporter(workdir)
    report.evaluation(0, EVALUATION)
    report.train(5, METRICS)
    report.close()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    shares = {name: lines[1].pop(name) for name in list(lines[1]) if name.startswith("share_")}
    assert lines == [
        {"step": 0, "epoch": 0.0, **EVALUATION},
        {"step": 5, "epoch": 0.5, **METRICS},
    ]
    assert shares.keys() == {f"share_{what}" for what in WORDS}
    assert sum(shares.values()) == pytest.approx(1)


def test_what_is_not_finite_is_null_for_json_has_no_nan(workdir):
    report = reporter(workdir)
    report.train(5, METRICS | {"loss": math.nan, "patch_loss": math.inf})
    report.close()
    line = (workdir / "metrics.jsonl").read_text()
    row = json.loads(line, parse_constant=pytest.fail)
    assert (row["loss"], row["patch_loss"], row["class_loss"]) == (None, None, 3.0)


def test_a_resumed_run_drops_the_lines_after_its_checkpoint(workdir):
    report = reporter(workdir)
    for step in (5, 10, 15):
        report.train(step, METRICS)
    report.close()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "epo')  # cut short by a kill
    report = reporter(workdir, start_step=10)
    report.train(15, METRICS | {"loss": 1.0})
    report.close()
    rows = read_rows(workdir)
    assert [(row["step"], row["loss"]) for row in rows] == [(5, 5.5), (10, 5.5), (15, 1.0)]


def test_what_was_measured_first_is_known_to_a_resumed_run_too(workdir):
    report = reporter(workdir)
    assert report.first == {}
    report.evaluation(0, EVALUATION)
    report.evaluation(10, EVALUATION | {"knn_top1": 30.0})
    assert report.first == EVALUATION
    report.close()
    report = reporter(workdir, start_step=10)
    assert EVALUATION.items() <= report.first.items()
    report.close()


def test_tensorboard_gets_the_same_values(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = reporter(workdir)
    report.train(5, METRICS)
    report.train(10, METRICS | {"loss": 4.0})
    report.evaluation(10, EVALUATION)
    report.close()
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()

    def series(tag):
        return [(event.step, event.value) for event in events.Scalars(tag)]

    assert series("loss") == [(5, 5.5), (10, 4.0)]
    assert series("feature_rank") == [(10, pytest.approx(12.34))]


@pytest.mark.parametrize("lost", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_reported_when_asked_for(workdir, monkeypatch, lost):
    """At once or in the background; closing what cannot be written raises nothing."""
    report = reporter(workdir)
    other = "_tensorboard" if lost == "metrics.jsonl" else "_lines"
    monkeypatch.setattr(getattr(report, other), "check", lambda: None)
    report.check()
    with full_disk():
        for step in range(1, 30):
            report.train(step, METRICS)
        report.flush()
        with pytest.raises(TrainingError, match=rf"{lost} cannot be written \((?is:.*too large)"):
            report.check()
        report.close()


def test_lines_on_a_screen_that_is_no_terminal(workdir, capsys):
    report = reporter(workdir)
    report.train(5, METRICS)
    report.evaluation(10, EVALUATION)
    report.evaluation(20, UNLABELLED | {"old_knn_top1": 70.0, "old_knn_top5": 90.0})
    report.warn_once("sign", "beware")
    report.warn_once("sign", "beware again")
    report.close()
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "step 5/40  epoch 0.5  loss 5.500 (class 3.000, patch 2.500)  teacher entropy 1.25",
        "teacher at step 10 (epoch 1.0): k-NN 25.0 % (top-5 50.0 %), linear probe 30.0 % "
        "(top-5 60.0 %), rank 12.3, prototypes in use 12.5 % (patches 25.0 %), NMI with labels "
        "30.0 %",
        "teacher at step 20 (epoch 2.0): k-NN of old images 70.0 % (top-5 90.0 %), rank 12.3, "
        "prototypes in use 12.5 % (patches 25.0 %)",
    ]
    assert err == "warning: beware\n"


def eighty_columns(monkeypatch):
    """Returns a terminal of 80 columns; it does not tell its size."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    return terminal


def test_a_bar_on_a_terminal(workdir, capsys, monkeypatch):
    """Lines of evaluations go above the bar."""
    terminal = eighty_columns(monkeypatch)
    monkeypatch.setattr("ibot_jax.screen.progress._REFRESH_SECONDS", 0.0)
    report = reporter(workdir, start_step=10)
    report.step_done(11, METRICS)
    report.evaluation(11, EVALUATION)
    report.train(11, METRICS)
    report.close()
    assert "11/40" in terminal.getvalue()
    assert "loss 5.500 entropy 1.25" in terminal.getvalue()
    out = capsys.readouterr().out
    assert out.startswith("teacher at step 11")
    assert "loss" not in out


def test_the_bar_of_a_long_run_fits_80_columns(workdir, monkeypatch):
    """It has run for hours and has days to go; the numbers that are looked at are whole."""
    terminal = eighty_columns(monkeypatch)
    now = [0.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("ibot_jax.runs.reporting.reporter.time.monotonic", lambda: now[0])
    plan = Plan(batch_size=1024, steps_per_epoch=5000, total_steps=1_000_000)
    report = Reporter(workdir, plan, start_step=0)
    for step in range(400_000, 400_003):
        now[0] += 40_000
        report.step_done(step, METRICS | {"loss": 18.125, "teacher_entropy": 8.25})
    report.close()
    lines = [line for line in re.split("[\r\n]", terminal.getvalue()) if "images/s" in line]
    assert lines
    for line in lines:
        assert len(line) <= 80
        assert re.match(r"loss 18\.125 entropy 8\.25 0\.0256 images/s +40%", line)
        assert "40000" in line


def test_the_bar_is_drawn_anew_while_a_step_takes_its_time(workdir, monkeypatch):
    terminal = eighty_columns(monkeypatch)
    monkeypatch.setattr("ibot_jax.screen.progress._REFRESH_SECONDS", 0.01)
    report = reporter(workdir)
    drawn = terminal.getvalue().count("0/40")
    deadline = time.monotonic() + 60
    while terminal.getvalue().count("0/40") < drawn + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    report.close()
    assert terminal.getvalue().count("0/40") >= drawn + 3


def test_speed_and_time_left_leave_out_the_first_step_and_pauses(workdir, capsys, monkeypatch):
    """Compilation takes 100 s, five steps of eight images 2 s, an evaluation between them 30 s."""
    now = [0.0]
    monkeypatch.setattr("ibot_jax.runs.reporting.reporter.time.monotonic", lambda: now[0])
    report = reporter(workdir)
    now[0] = 100.0
    report.step_done(1, METRICS)
    with report.paused("evaluation"):
        now[0] += 30
    now[0] += 2
    report.train(6, METRICS)
    report.close()
    assert "20 images/s  ETA 0:00:14" in capsys.readouterr().out  # 34 steps of 0.4 s
    assert read_rows(workdir)[0]["images_per_second"] == 20.0


def test_waits_for_input_are_told_where_they_are_worth_a_word(workdir, capsys, monkeypatch):
    """A batch takes 100 s in which the device has nothing to do, and steps 25 s; then 1 and 99."""
    now = [0.0]
    monkeypatch.setattr("ibot_jax.runs.reporting.reporter.time.monotonic", lambda: now[0])
    report = reporter(workdir)

    def batches():
        for seconds in (100, 1):
            now[0] += seconds
            yield seconds

    for batch in report.goodput.fed(batches()):
        now[0] += {100: 25, 1: 99}[batch]
        report.train(batch, METRICS)
    report.close()
    first, second = capsys.readouterr().out.splitlines()
    assert "  input 80 %" in first and "input" not in second
    rows = read_rows(workdir)
    assert [row["share_input"] for row in rows] == pytest.approx([0.8, 0.01])
    assert [row["share_step"] for row in rows] == pytest.approx([0.2, 0.99])


def test_the_bar_tells_what_else_goes_on_and_for_how_long(workdir, monkeypatch):
    terminal = eighty_columns(monkeypatch)
    report = reporter(workdir)
    for what, words in (("compile", "compiling 0:00:0"), ("evaluation", "evaluating 0:00:0")):
        with report.paused(what):
            assert words in terminal.getvalue()
    report.close()


def test_the_summary_has_first_last_and_best_accuracy_and_the_entropies(workdir, capsys):
    report = reporter(workdir)
    for step, top1 in ((0, 10.0), (20, 30.0), (40, 25.0)):
        found = {"knn_top1": top1, "probe_top1": top1 + 1, "feature_rank": top1 / 2}
        report.evaluation(step, EVALUATION | found)
    report.train(40, METRICS)
    report.say_summary(prototypes=64)
    report.close()
    *_, time, _, _, _, _, _ = lines = capsys.readouterr().out.splitlines()
    assert time.startswith("time: steps ") and "waiting for input 0.0 %" in time
    assert lines[-5:] == [
        "entropy of teacher 1.25, of student 1.50, of the teacher's mean 2.00; uniform would be "
        "ln 64 = 4.16",
        "k-NN 10.0 % at initialisation, 25.0 % now (best 30.0 % at step 20)",
        "linear probe 11.0 % at initialisation, 26.0 % now (best 31.0 % at step 20)",
        "feature rank 5.0 at initialisation, 12.5 now",
        f"written to {workdir}",
    ]


def test_whether_the_first_step_was_evaluated_is_told_by_its_line(workdir):
    report = reporter(workdir)
    assert not report.evaluated
    report.evaluation(0, UNLABELLED)
    report.train(10, METRICS)
    report.close()
    report = reporter(workdir, start_step=10)
    assert not report.evaluated
    report.evaluation(10, UNLABELLED)
    report.close()
    assert reporter(workdir, start_step=10).evaluated


def test_other_processes_write_nothing(workdir, capsys, monkeypatch):
    monkeypatch.setattr("ibot_jax.runs.reporting.reporter.is_first", lambda: False)
    report = reporter(workdir)
    report.say("x")
    report.step_done(1, METRICS)
    report.train(5, METRICS)
    report.evaluation(5, EVALUATION)
    report.warn_once("sign", "beware")
    report.say_summary(prototypes=64)
    with report.paused("evaluation"):
        pass
    report.flush()
    report.close()
    assert list(workdir.iterdir()) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"step": None, "epoch": 1.0},
        {"step": 1.5, "epoch": 1.0},
        {"step": -1, "epoch": 1.0},
        {"step": 2, "epoch": "two"},
        {"step": 2, "epoch": 0.2, "loss": 10**400},
        {"step": 2, "epoch": 0.2, "loss": math.inf, "lr": math.nan},
        {"step": 2, "epoch": 0.2, "loss": {"of": 3}},
    ],
)
def test_a_run_resumes_over_odd_lines(workdir, caplog, odd):
    rows = [{"step": 1, "epoch": 0.1, "loss": None}, odd, {"step": 3, "epoch": 0.3, "loss": 2.0}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reporter(workdir, start_step=3).close()
    assert read_rows(workdir) == [rows[0], rows[2]]
    assert "metrics.jsonl: left out what is damaged, 1 lines: 2" in caplog.text


def steps_in_tensorboard(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


def test_steps_that_a_resumed_run_repeats_are_once_in_tensorboard(workdir):
    """After a kill: neither file was closed, and lines of steps after the save are in both."""
    killed = reporter(workdir)
    for step in (1, 2, 3, 4):
        killed.train(step, METRICS)
    killed.flush()
    (file,) = (workdir / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    for _ in range(2):
        resumed = reporter(workdir, start_step=2)
        for step in (3, 4):
            resumed.train(step, METRICS)
        resumed.close()
    assert steps_in_tensorboard(workdir) == [1, 2, 3, 4]
    assert [row["step"] for row in read_rows(workdir)] == [1, 2, 3, 4]


def test_a_run_that_has_saved_nothing_begins_anew(workdir):
    """Its evaluation before the first step may be of another config."""
    failed = reporter(workdir)
    failed.evaluation(0, EVALUATION)
    failed.train(1, METRICS)
    failed.flush()
    again = reporter(workdir)
    assert not again.evaluated
    again.train(1, METRICS)
    again.close()
    assert [row["step"] for row in read_rows(workdir)] == [1]
    assert steps_in_tensorboard(workdir) == [1]


def test_other_images_are_said_in_the_metrics(workdir, capsys):
    report = reporter(workdir, start_step=20)
    report.data_changed(20, 24, 33)
    report.close()
    assert read_rows(workdir) == [
        {"step": 20, "epoch": 2.0, "train_images": 33, "train_images_before": 24}
    ]
    assert "from step 20 on, 33 images where there were 24" in capsys.readouterr().err


def test_pictures_are_in_tensorboard_as_they_were_drawn(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drawn = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    report = reporter(workdir)
    report.picture(3, "views", lambda: Image.fromarray(drawn))
    report.close()
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    (event,) = events.Images("views")
    assert event.step == 3 and (event.height, event.width) == (4, 6)
    found = Image.open(io.BytesIO(event.encoded_image_string))
    np.testing.assert_array_equal(found, drawn)


def test_the_card_is_the_header_and_the_summary(workdir, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(Loggers, "card", lambda self, text: told.append(text))
    report = reporter(workdir)
    report.say_header(["ibot_jax 1", "  model ViT"])
    report.evaluation(0, {"knn_top1": 50.0, "knn_top5": 60.0, "feature_rank": 3.0})
    report.say_summary(8)
    report.close()
    (text,) = told
    assert text.startswith(f"# {workdir.name}\n\n```\nibot_jax 1\n  model ViT\n")
    assert "k-NN 50.0 % at initialisation, 50.0 % now" in text and text.endswith("```\n")
