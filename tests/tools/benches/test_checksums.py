"""The bench of checksums makes as many bytes as a checkpoint has, and leaves nothing."""

from ibot_jax.tools import bench


def test_it_says_size_and_three_times(tmp_path, capsys):
    flags = ("--config=configs/digits.py", "--config.model.width=64", f"--folder={tmp_path}")
    assert bench.main(["checksums", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:15] for line in lines[1:]] == [
        "beside a save, ",
        "before a run re",
        "before the teac",
    ]
    assert all(" s of one core" in line for line in lines[1:])
    assert list(tmp_path.iterdir()) == []
