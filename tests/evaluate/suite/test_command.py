"""The suite end to end on made sets: what it measures, skips, keeps, and what its page says."""

import dataclasses
import json
import pathlib

import pytest
from planes import SIZE, write_planes, write_sun_rgbd
from scenes import write_ade20k, write_patterns

from ibot_jax.evaluate import __main__ as program
from ibot_jax.evaluate.benchmarks.depth import data
from ibot_jax.evaluate.suite import command
from ibot_jax.evaluate.suite.catalogue import EVALUATIONS, MODELS, S
from ibot_jax.screen import page

SMALL = {
    "imagenet-knn": ("--batch-size=16", "--k=10"),
    "imagenet-few-labels": ("--batch-size=16", "--labels=10%,1%"),
    "nyu-1": ("--crop", "16", "24", "--steps=3", "--batch-size=8"),
    "sun-rgbd-1": ("--crop", "16", "24", "--steps=3", "--batch-size=8"),
    "ade20k": (
        *("--size=32", "--crop=24", "--stride=12", "--ratios=1,1.5"),
        *("--steps=3", "--warmup=1", "--batch-size=8"),
    ),
    "spair": ("--size=32",),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory, images):
    """Returns a folder of sets that are made small, and a Paris without its truth."""
    root = tmp_path_factory.mktemp("root")
    (root / "imagenet").mkdir()
    (root / "imagenet/train").symlink_to(pathlib.Path(images) / "train")
    (root / "imagenet/val").symlink_to(pathlib.Path(images) / "test")
    (root / "rparis6k").mkdir()
    write_planes(root / "nyu")
    write_ade20k(root / "ADEChallengeData2016")
    write_patterns(root / "SPair-71k")
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Makes the first look smaller still, as the made sets are."""
    made = [dataclasses.replace(e, quick=e.quick + SMALL.get(e.name, ())) for e in EVALUATIONS]
    monkeypatch.setattr(command, "EVALUATIONS", made)


@pytest.fixture
def suite(root, workdir, tmp_path, capsys):
    """Returns a function that runs the command: status, stdout, stderr."""

    def run(*flags):
        common = f"--data-root={root}", f"--out={tmp_path / 'out'}", f"--cache={tmp_path / 'cache'}"
        status = program.main(["suite", f"--from={workdir}", *common, *flags])
        out, err = capsys.readouterr()
        return status, out, err

    return run


TASKS = "--tasks=imagenet-knn,imagenet-few-labels,ade20k,nyu-1,spair,davis"


@pytest.mark.slow
def test_a_first_look_measures_what_is_there_and_names_what_is_not(suite, root, tmp_path):
    status, out, err = suite("--quick", TASKS)
    assert status == 0, err
    assert f"left out: davis, for {root}/DAVIS/ImageSets/2017/val.txt is absent" in err
    assert "davischallenge.org" in err
    rows = json.loads((tmp_path / "out/suite.json").read_text())
    found = {name for name in TASKS.partition("=")[2].split(",") if name != "davis"}
    reports = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("out/*/*/*.json")}
    assert set(reports) == found and len(rows) == len(found)
    for row in rows:
        (report,) = (each for each in reports.values() if each["task"] == row["task"])
        assert report["metrics"] == row["metrics"]
        assert report["settings"]["sha256"] == row["weights"]
    assert (
        "1 of the test images are training images, too" in (tmp_path / "out/suite.md").read_text()
    )
    top1 = f"{rows[0]['metrics']['top1']:.1f}"
    markdown = (tmp_path / "out/suite.md").read_text()
    for text in (out, markdown, (tmp_path / "out/suite.html").read_text()):
        assert "ImageNet, k-NN, %" in text and top1 in text
    assert "A first look" in markdown and "davischallenge.org" in markdown
    assert not any(model in markdown for model in MODELS)


def test_sun_rgbd_is_measured_by_the_head_of_nyu(suite, root, tmp_path, monkeypatch):
    """Which is trained once; without the images of NYUd there is none."""
    monkeypatch.setattr(
        data, "SUN_RGBD", dataclasses.replace(data.SUN_RGBD, seen=SIZE, box_of=None)
    )
    other = tmp_path / "root"
    write_sun_rgbd(other / "sun-rgbd")
    (other / "SPair-71k").symlink_to(root / "SPair-71k")
    tasks = "--quick", "--tasks=nyu-1,sun-rgbd-1,spair", f"--data-root={other}"
    status, _, err = suite(*tasks)
    assert status == 0, err
    assert f"left out: sun-rgbd-1, for {other}/nyu is absent; it is from cs.nyu.edu" in err
    (other / "nyu").symlink_to(root / "nyu")
    status, out, err = suite(*tasks)
    assert status == 0, err
    assert "SUN RGB-D, trained on NYUd" in out
    (head,) = tmp_path.glob("out/*/*/depth-*.npz")
    reports = [json.loads(path.read_text()) for path in head.parent.glob("depth-*.json")]
    of_nyu, of_both = sorted((report["metrics"] for report in reports), key=len)
    assert of_both.items() > of_nyu.items() and of_both["sun_rgbd_rmse"] > 0


def test_what_is_measured_is_not_measured_again(suite, tmp_path):
    flags = "--quick", "--tasks=imagenet-knn"
    assert suite(*flags)[0] == 0
    kept = tmp_path / "out/suite.json"
    rows = json.loads(kept.read_text())
    rows[0]["metrics"]["top1"] = 12.3  # nobody can have measured
    kept.write_text(json.dumps(rows))
    status, out, err = suite(*flags)
    assert status == 0 and "12.3" in out and "1 of 1" not in err
    # Other weights, or the whole protocol, are something else.
    assert "1 of 1" in suite(*flags, "--weights=student")[2]


def test_published_figures_stand_beside_and_how_far_they_are(suite):
    status, out, _ = suite("--tasks=imagenet-knn", f"--beside={S}")
    assert status == 0
    *_, header, row, _ = out.splitlines()
    assert S in header
    *_, figure, difference, published = row.split()
    assert published == "75.2"
    assert float(difference.strip("()")) == pytest.approx(float(figure) - 75.2, abs=0.051)


def test_several_models_stand_side_by_side_and_one_that_fails_ends_no_other(
    suite, workdir, tmp_path
):
    other = f"--from={workdir}/checkpoints/3"
    status, out, err = suite("--quick", "--tasks=rparis6k,imagenet-knn", other)
    assert status == 1
    assert "error: rparis6k" in err and "gnd_rparis6k.pkl is absent" in err
    *_, header, knn, medium, hard, _ = out.splitlines()
    assert workdir in header and f"{workdir}/checkpoints/3" in header
    assert medium.count("failed") == hard.count("failed") == 2
    assert "k-NN" in knn and "failed" not in knn
    assert "gnd_rparis6k.pkl" in (tmp_path / "out/suite.md").read_text()


def test_groups_are_those_with_a_published_figure():
    names = {group: {e.name for e in command.choose([group])} for group in command._GROUPS}
    assert {"imagenet-knn", "davis"} <= names["published/ibot"]
    assert "nyu-4" not in names["published/ibot"]
    assert {"imagenet-knn", "nyu-4", "roxford5k"} <= names["published/dinov2"]
    assert len(command.choose(["all"])) == len(EVALUATIONS)


def test_every_evaluation_of_the_catalogue_is_a_command_of_its_task(tmp_path):
    for evaluation in EVALUATIONS:
        assert evaluation.needs and all(evaluation.needs.values()) and evaluation.figures
        assert all(set(figure.published) <= set(MODELS) for figure in evaluation.figures)
        for quick in ((), evaluation.quick):
            words = [evaluation.task, "--from=x", *evaluation.flags, *quick]
            assert command.subcommands.parse(
                words, "ibot_jax.evaluate", program.TASKS, noun="task", doc=""
            )


def test_the_documents_list_the_catalogue():
    text = (pathlib.Path(__file__).parents[3] / "docs/evaluations.md").read_text()
    for evaluation in EVALUATIONS:
        places = ", ".join(f"`{place}`" for place in evaluation.needs)
        assert f"| `{evaluation.name}` | `{evaluation.task}` | {places} |" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks=speed"], "'speed' is none of all, published/ibot, "),
        (["--data-root=nowhere"], "nowhere is no folder"),
        (["--tasks=davis"], "holds nothing to measure on, such as "),
        (["--from=nowhere"], "nowhere does not exist; give a run's workdir"),
        (["--beside=DINO"], "invalid choice: 'DINO'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(suite, flags, message):
    status, out, err = suite(*flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_damaged_record_is_named(suite, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/suite.json").write_text('[{"task": 3}]')
    status, _, err = suite("--tasks=imagenet-knn")
    assert status == 2 and "suite.json is not what a suite has kept; remove it" in err


def test_the_page_asks_nothing_of_a_network():
    assert "default-src 'none'" in page.page("a", "b", "", {}, "c")
