"""Bad images are named, but not without end, and stop the run when there are too many."""

import logging

import pytest

from ibot_jax.data.make.bad_images import BadImages
from ibot_jax.errors import TrainingError


def test_a_name_appears_once_and_only_so_many_are_logged(caplog):
    bad_images = BadImages(1000, max_share=1.0)
    with caplog.at_level(logging.WARNING):
        for index in [*range(30), *range(30)]:
            bad_images.note_reads(1)
            bad_images.note_bad(f"image-{index}", "it is torn")
    assert len(bad_images) == 30
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "skipped image-0: it is torn"
    assert len(lines) == 21
    assert lines[-1].startswith("further images")


def test_the_limit_is_a_share_of_the_source():
    bad_images = BadImages(200, max_share=0.01)
    bad_images.note_reads(2)
    bad_images.note_bad("first", "torn")
    bad_images.note_bad("second", "torn")
    bad_images.note_bad("second", "torn")  # in the next epoch
    with pytest.raises(TrainingError, match="more than data.max_bad_share=0.01 of 200"):
        bad_images.note_bad("third", "torn")


def test_a_large_source_is_judged_before_its_end():
    bad_images = BadImages(1_000_000, max_share=0.01)
    with pytest.raises(TrainingError, match="max_bad_share"):  # noqa: PT012
        for index in range(200):  # every second one; the limit is 10,000
            bad_images.note_reads(2)
            bad_images.note_bad(str(index), "torn")


def test_chance_does_not_end_a_run_within_the_limit():
    bad_images = BadImages(1_000_000, max_share=0.01)
    bad_images.note_reads(100)
    for index in range(4):  # 4 % of the first hundred happens at a true share of 1 %
        bad_images.note_bad(str(index), "torn")
    assert len(bad_images) == 4
