"""The TPU compiler takes the kernels of a block where they nearly fill a core's memory."""

import pathlib
import subprocess
import sys

import pytest
import tpu_compiler

ROOT = pathlib.Path(__file__).parents[3]
COMPILE = """
import sys
import jax
import jax.numpy as jnp
from ibot_jax.kernels.branch import branch
from ibot_jax.kernels.choice import choose
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import QKV, AttentionBranchSpec, AttentionSpec, MlpBranchSpec
from ibot_jax.tools.pods.ahead import pod_devices

topology, kind, *sizes = sys.argv[1:]
tokens, width = map(int, sizes)
device = pod_devices(topology)[0]
uses = []
kernels = choose("auto", Device("tpu", device.device_kind, partitioned=False), uses)
norm_of = dict(norm="layer", epsilon=1e-6)

def array(*shape, dtype=jnp.float32):
    here = jax.sharding.SingleDeviceSharding(device)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

def linear(inputs, outputs):
    return {"kernel": array(inputs, outputs), "bias": array(outputs)}

norm = {"scale": array(width), "bias": array(width)}
if kind == "mlp":
    params = {"norm": norm, "fc1": linear(width, 4 * width), "fc2": linear(4 * width, width)}
    spec = MlpBranchSpec(tokens, width, 4 * width, "bfloat16", "gelu", **norm_of)
    rows = tokens
else:
    params = {"norm": norm, "qkv": linear(width, 3 * width), "proj": linear(width, width)}
    attention = AttentionSpec(8, tokens, width, width // 64, "bfloat16", 1 / 8, QKV)
    spec = AttentionBranchSpec(attention, **norm_of)
    rows = 8 * tokens
x = array(rows, width, dtype=jnp.bfloat16)
add = lambda x, params: branch(x, params, spec, kernels)
gradients = jax.grad(lambda *of: add(*of).astype(jnp.float32).sum(), argnums=(0, 1))
jax.jit(gradients).lower(x, params).compile()
assert uses
"""


@pytest.mark.slow
@tpu_compiler.needed
@pytest.mark.parametrize(
    ("topology", "kind", "tokens", "width"),
    [
        # Of 10,000 tokens, no part of a core's 5,000 leaves no rest: the most are taken at a time.
        ("v4:2x2x1", "mlp", 10_000, 384),
        ("v4:2x2x1", "mlp", 10_000, 512),
        ("v5p:2x2x1", "mlp", 10_000, 1024),
        ("v4:2x2x1", "attention", 112, 512),  # several sequences at a time
        ("v4:2x2x1", "attention", 472, 384),
    ],
)
def test_gradients_compile(topology, kind, tokens, width):
    arguments = (topology, kind, str(tokens), str(width))
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


MEMORY = """
import sys
import jax
import jax.numpy as jnp
from ibot_jax.kernels.attention import attention
from ibot_jax.kernels.choice import XLA, choose
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import AttentionSpec
from ibot_jax.tools.pods.ahead import pod_devices

topology, *sizes = sys.argv[1:]
batch, tokens, width = map(int, sizes)
device = pod_devices(topology)[0]
kernels = choose("auto", Device("tpu", device.device_kind, partitioned=False))
spec = AttentionSpec(batch, tokens, width, width // 64, "bfloat16", 1 / 8)
here = jax.sharding.SingleDeviceSharding(device)
x = jax.ShapeDtypeStruct((batch, tokens, width), jnp.bfloat16, sharding=here)
for kernels in (kernels, XLA):
    def total(*arrays):
        return attention(*arrays, {}, spec, kernels).astype(jnp.float32).sum()
    program = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(x, x, x).compile()
    print(program.memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
@tpu_compiler.needed
@pytest.mark.parametrize(
    ("topology", "batch", "tokens", "width"),
    [
        ("v5e:2x2", 8, 1032, 384),  # 512 pixels
        ("v5e:2x2", 2, 2312, 1024),  # 768 pixels
        ("v5p:2x2x1", 2, 2312, 1024),
        ("v4:2x2x1", 2, 2048, 1024),
    ],
)
def test_attention_of_long_sequences_has_no_buffer_of_all_pairs(topology, batch, tokens, width):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, topology, str(batch), str(tokens), str(width)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours, by_xla = map(int, done.stdout.split())
    output = 2 * batch * tokens * width
    log_sums = 4 * batch * tokens * width // 64
    pairs = 2 * batch * tokens**2 * (width // 64)
    assert by_xla > pairs
    assert ours < 1.3 * (output + log_sums)
