"""Keys that a config leaves open, for weights to tell."""

import pytest
from absl import flags

from ibot_jax.cli.config_file import parse_config
from ibot_jax.config import flatten, get_config, leave_open
from ibot_jax.config.open_keys import open_keys
from ibot_jax.errors import UserError
from ibot_jax.runs.check import check_config, problems_at_hand

CONTINUE = ("--config=continue", "--config.data.source=synthetic")


def parse(*arguments):
    arguments = ["", *CONTINUE, *arguments]
    return parse_config(arguments, flags.FlagValues(), check=problems_at_hand)


def test_open_keys_take_values_of_their_types():
    config = parse(
        "--config.init_from=x",
        "--config.model.heads=3",
        "--config.model.layer_scale=1",
        "--config.data.global_size=32,64",
    )
    assert (config.model.heads, config.data.global_size) == (3, (32, 64))
    assert isinstance(config.model.layer_scale, float)
    assert {"model.width", "head.prototypes", "data.mean", "knn.resize"} < {
        *open_keys(flatten(config))
    }
    with pytest.raises(UserError, match=r"heads=a has the wrong type; it takes a whole .* entries"):
        parse("--config.init_from=x", "--config.model.heads=a", "--config.data.local_size=(1,)")


def test_what_needs_no_weights_is_checked_before_they_are_read():
    with pytest.raises(UserError) as error:
        parse("--config.init_from=x", "--config.optim.lr=-1", "--config.duration=1 week")
    assert "optim.lr=-1.0 must" in str(error.value)
    assert "duration='1 week'" in str(error.value)
    assert "open" not in str(error.value)


def test_open_keys_without_weights():
    message = r"^the config leaves keys open \(None\): .* of init_from; set that, or them$"
    with pytest.raises(UserError, match=message):
        parse()
    config = get_config()
    config.data.source = "synthetic"
    leave_open(config)
    with pytest.raises(UserError, match=message):
        check_config(config)
