"""`bench start`: processes that are started and timed for real."""

import json

import pytest

from ibot_jax.tools import bench
from ibot_jax.tools.benches import start


def test_a_table_of_cold_and_warm_starts():
    cold = {"run: first step": 31.25}
    rounds = [{"help": 1.0, "run: first step": 9.0 + number} for number in range(3)]
    assert start.table(cold, rounds).splitlines() == [
        "seconds to       cold    warm (lowest to highest)",
        "help                     1.0 (1.0 to 1.0)",
        "run: first step  31.2    10.0 (9.0 to 11.0)",
    ]


@pytest.mark.slow
def test_starts_of_a_small_run(tmp_path, capsys):
    small = ["--config.model.depth=1", "--config.knn.every=", "--config.data.local_views=0"]
    path = tmp_path / "start.json"
    given = ["--config=configs/digits.py", *small, "--rounds=1", f"--json={path}"]
    assert bench.main(["start", *given]) == 0
    report = json.loads(path.read_text())
    (warm,) = report["warm"]
    assert list(warm) == ["help", "mistake", "run: settings told", "run: first step"]
    for found in (report["cold"], warm):
        assert 0 < found["run: settings told"] < found["run: first step"]
    # Programs are read that the first run has written.
    assert warm["run: first step"] < report["cold"]["run: first step"]
    assert capsys.readouterr().out.startswith("seconds to ")


def test_a_run_that_ends_before_its_first_step_is_told_with_its_last_line(capsys):
    given = ["--config=configs/digits.py", "--config.data.source=folder:/nowhere"]
    assert bench.main(["start", *given]) == 2
    assert capsys.readouterr().err.startswith(
        "error: the run ended before its first step: data.source='folder:/nowhere' "
    )
