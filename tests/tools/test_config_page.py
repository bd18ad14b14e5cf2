"""docs/config.md is what the tables of keys say."""

import pathlib

from ibot_jax.config import defaults
from ibot_jax.finetune import config as finetune
from ibot_jax.tools.config_page import page

PAGE = pathlib.Path(__file__).parents[2] / "docs/config.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run python -m ibot_jax.tools.config_page > docs/config.md"


def test_each_key_has_one_row_with_its_kind():
    before, after = page().split("## Fine-tuning")
    for text, keys in ((before, defaults.KEYS), (after, finetune.KEYS)):
        rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| `")]
        assert {row[0].strip("| `"): row[2] for row in rows} == {
            name: key.kind.value for name, key in keys.items()
        }
        assert len(rows) == len(keys)
