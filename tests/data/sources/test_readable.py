"""Whether enough images can be read is known before anything slow begins."""

import pytest
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources import readable
from ibot_jax.data.sources.opening import open_source
from ibot_jax.data.sources.readable import require_readable
from ibot_jax.errors import UserError


@pytest.fixture
def source(tmp_path):
    """Returns ten images, of which the last two can be read."""
    for index in range(10):
        if index < 8:
            (tmp_path / f"{index}.png").write_bytes(b"no picture at all")
        else:
            Image.new("RGB", (2, 2)).save(tmp_path / f"{index}.png")
    return open_source(f"folder:{tmp_path}", "train")


def test_as_many_as_there_are_will_do(source):
    require_readable(source, Decoding(), 2)
    with pytest.raises(UserError) as error:
        require_readable(source, Decoding(), 3, "knn.k=3")
    assert str(error.value) == (
        f"2 of the 10 images of {source.name} can be read, and knn.k=3 needs 3 or more; the first "
        f"that cannot: {source.describe(0)}: no image, or of an unknown format"
    )


def test_not_all_of_a_large_source_is_tried(source, monkeypatch):
    monkeypatch.setattr(readable, "MAX_TRIED", 5)
    with pytest.raises(UserError, match="^0 of the first 5 images of"):
        require_readable(source, Decoding())
    monkeypatch.setattr(readable, "MAX_TRIED", 9)  # one can be read: there may be more
    require_readable(source, Decoding(), 3)
