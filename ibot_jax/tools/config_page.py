"""Writes docs/config.md from the tables of keys.

python -m ibot_jax.tools.config_page > docs/config.md
"""

from ibot_jax.config import defaults
from ibot_jax.config.listing import KINDS, tables
from ibot_jax.finetune import config as finetune

_BEGINNING = """# Keys of the config

`python -m ibot_jax.tools.config_page > docs/config.md` writes this page from the tables in
[`config/defaults.py`](../ibot_jax/config/defaults.py) and
[`finetune/config.py`](../ibot_jax/finetune/config.py), where each key has its default, meaning,
range and kind. `--help=config` shows the same.

`--config.KEY=VALUE` sets a key, as do the files in `configs/`. A name that is no key
is refused with the likeliest one. Durations are written `10 epochs`, `5000 steps`, `1e6 examples`
or, as a share of the run, `10%`.

| kind | decides |
| --- | --- |
"""


def page() -> str:
    """Returns the page as Markdown."""
    kinds = "".join(f"| {kind.value} | {about} |\n" for kind, about in KINDS.items())
    return (
        f"{_BEGINNING}{kinds}\n"
        f"## Pre-training\n\n{tables(defaults.KEYS, defaults.SECTIONS)}\n"
        f"## Fine-tuning\n\n{tables(finetune.KEYS, finetune.SECTIONS)}"
    )


if __name__ == "__main__":
    print(page(), end="")
