"""What one host has no memory for, none begins."""

import pytest

from ibot_jax.errors import UserError
from ibot_jax.evaluate.common import memory
from ibot_jax.parallel import agreement
from ibot_jax.parallel.mesh import make_mesh


def test_a_host_with_memory_ends_as_the_one_without(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 1000)
    other = b"\0process 1 on b: --k=1 takes 900 bytes of memory"
    monkeypatch.setattr(agreement, "gather", lambda own: [own, other])
    with pytest.raises(UserError, match="^process 1 on b: --k=1 takes 900 bytes"):
        memory.check_spread("--k=1", 900, make_mesh())
    told = []
    monkeypatch.setattr(agreement, "gather", lambda own: told.append(own) or [own])
    memory.check_spread("--k=1", 1000, make_mesh())
    with pytest.raises(UserError, match=r"^--k=1 takes .* and there are 1,000 bytes; lower it"):
        memory.check_spread("--k=1", 1001, make_mesh())
    assert told[0] == b"" and b"--k=1 takes" in told[1]
