"""The task `instances`, on both sets made small."""

import json

import numpy as np
import pytest
from PIL import Image

SIZE = (16, 16)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "PNG")


def thing(number):
    """Returns pixels that are like those of no other number."""
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3))


def shown(number, noise, seed):
    """Returns a photo of a thing."""
    return thing(number) + noise * np.random.default_rng([number, seed]).normal(size=(*SIZE, 3))


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """Five exhibits with two images each; queries of four of them, and of other things."""
    data = tmp_path_factory.mktemp("met")
    root, lists = data / "met", {"MET_database": [], "valset": [], "testset": []}
    for number in range(5):
        for image in range(2):
            path = f"MET/{number + 30}/{image}.jpg"
            lists["MET_database"].append({"id": number + 30, "path": path})
            save(root / "images" / path, shown(number, 20, image))
    for seed, split in enumerate(("valset", "testset")):
        for number in range(4):
            path = f"test_met/{split}{number}.jpg"
            lists[split].append({"MET_id": number + 30, "path": path, "url": "..."})
            save(root / "images" / path, shown(number, 60, 2 + seed))
        for number in range(3):
            path = f"test_other/{split}{number}.jpg"
            lists[split].append({"path": path, "category": "..."})
            save(root / "images" / path, thing(100 + 10 * seed + number))
    (root / "ground_truth").mkdir()
    lists["mini_MET_database"] = lists["MET_database"][:6]  # three of the exhibits
    for name, entries in lists.items():
        (root / f"ground_truth/{name}.json").write_text(json.dumps(entries))
    return data


@pytest.fixture(scope="module")
def amstertime(tmp_path_factory):
    """Six places, of which the last is shown as the first one was."""
    data = tmp_path_factory.mktemp("amstertime")
    for number in range(6):
        save(data / f"amstertime/old/{number:04}.jpg", shown(number, 20, 0))
        save(data / f"amstertime/new/{number:04}.png", shown(number % 5, 20, 1))
    return data


def report_of(evaluate, data, dataset, tmp_path):
    flags = (f"--data={data}", f"--set={dataset}", "--features=pixels")
    status, _, err = evaluate("instances", *flags)
    assert (status, err) == (0, "")
    return json.loads((tmp_path / "out/instances.json").read_text())


def test_exhibits_are_found_and_other_things_are_less_sure(evaluate, met, tmp_path):
    found = report_of(evaluate, met, "met", tmp_path)
    assert found["metrics"] == {
        name: pytest.approx(100) for name in ("gap", "gap_of_shown", "accuracy", "nearest_gap")
    }
    assert [row["by"] for row in found["rows"]] == ["chosen", "nearest"]


def test_of_the_small_database_fewer_exhibits_are_found(evaluate, met, tmp_path):
    found = report_of(evaluate, met, "mini-met", tmp_path)["metrics"]
    assert found["accuracy"] == 75 and found["gap"] == pytest.approx(75)


def test_places_are_found_in_both_directions(evaluate, amstertime, tmp_path):
    """The last place looks like the first, whose street view stands before its own or behind it."""
    found = report_of(evaluate, amstertime, "amstertime", tmp_path)
    rows = {row["queries"]: row for row in found["rows"]}
    assert rows["all"]["images"] == 12
    # Four of six are found at once in either direction, and what shows the first place, too.
    assert rows["old to new"]["top1"] < 100 and rows["new to old"]["top1"] < 100
    both = [rows[name]["map"] for name in ("new to old", "old to new")]
    assert found["metrics"]["map"] == pytest.approx(np.mean(both))
    assert found["metrics"]["top1"] >= 100 * 8 / 12 and found["metrics"]["map"] < 100


def test_what_is_absent_or_odd_is_told_with_the_page(mistake, amstertime, tmp_path):
    found = mistake("instances", amstertime, "--set=met")
    assert "MET_database.json is absent; met is " in found and "cmp.felk.cvut.cz/met" in found
    for name in ("new/0.png", "old/1.jpg"):
        save(tmp_path / "amstertime" / name, thing(0))
    found = mistake("instances", tmp_path, "--set=amstertime")
    assert "0 is new or old alone" in found and "doi.org/10.4121/19580806" in found
    (tmp_path / "met/ground_truth").mkdir(parents=True)
    (tmp_path / "met/ground_truth/MET_database.json").write_text('[{"id": 3}]')
    assert "KeyError('path')" in mistake("instances", tmp_path, "--set=met")
