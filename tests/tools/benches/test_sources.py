"""Sources of many images: what opening them takes."""

import json

from ibot_jax.tools import bench


def test_a_million_images_would_take_little_memory(tmp_path, capsys):
    """By 20,000: less than 300 bytes for each, also while a source is opened."""
    out = tmp_path / "report.json"
    command = ["sources", "--number=20000", "--shards=20", f"--folder={tmp_path}", f"--json={out}"]
    assert bench.main(command) == 0
    report = json.loads(out.read_text())
    assert report.keys() == {"folder", "list", "tar"} and list(tmp_path.iterdir()) == [out]
    for kind, measured in report.items():
        assert measured["images"] == 20_000
        # A name alone has more than 12 bytes.
        assert 12 < measured["bytes"] <= measured["peak_bytes"] < 300, kind
    assert capsys.readouterr().out.count("20,000 images: ") == 3
