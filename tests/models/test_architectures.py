"""What is known of each kind of backbone without its arrays; an unknown kind is no ViT."""

import pytest
from tiny import tiny_config

from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import flatten
from ibot_jax.errors import UserError
from ibot_jax.models import counts
from ibot_jax.models.architectures import ARCHITECTURES, geometry_of, in_words
from ibot_jax.models.build import MODULES, attention_in_memory, build_backbone
from ibot_jax.models.relations import RELATIONS, split_over_tensor
from ibot_jax.runs.memory import depth_key, device_needs
from ibot_jax.weights.card import make_card
from ibot_jax.weights.description import describe


def test_configs_name_the_kinds_that_there_are():
    assert set(ARCHITECTURES) == set(MODULES) == set(KEYS["model.arch"].takes.words)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_keys_of_a_kind_are_of_configs_and_of_its_module(arch):
    architecture = ARCHITECTURES[arch]
    assert {architecture.depth_key, architecture.heads_key} <= set(architecture.keys)
    for key in architecture.keys:
        assert f"model.{key}" in KEYS and key in MODULES[arch].__dataclass_fields__
        assert not any(key in other.keys for name, other in ARCHITECTURES.items() if name != arch)


ASKING = {
    "geometry": lambda config: geometry_of(config.model),
    "words": lambda config: in_words(config.model),
    "stages": lambda config: counts.stages(config.model, (16, 16), (16, 16)),
    "flops": lambda config: counts.flops(config.model, 3, (16, 16), (16, 16)),
    "parameters": lambda config: counts.parameters(config.model, 3, (16, 16)),
    "module": lambda config: build_backbone(config.model, (16, 16), "float32"),
    "attention": lambda config: attention_in_memory(
        config.model, counts.stages(tiny_config().model, (16, 16), (16, 16)), "float32"
    ),
    "depth": lambda config: depth_key(config.model),
    "memory": lambda config: list(device_needs(flatten(config), 1)),
    "tensor axis": lambda config: list(split_over_tensor(flatten(config))),
    "relations": lambda config: [list(check(flatten(config))) for check in RELATIONS],
    "description": lambda config: describe(flatten(config), head=False),
    "card": lambda config: make_card(
        described(config.model.arch), {}, title="mine", reading="...", usage="..."
    ),
}


def described(arch):
    description = describe(flatten(tiny_config()), head=False)
    return description | {"model": description["model"] | {"arch": arch}}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_an_unknown_kind_is_taken_for_no_other(ask):
    ask(tiny_config())
    with pytest.raises((KeyError, UserError), match="mlp"):
        ask(tiny_config(model__arch="mlp"))
