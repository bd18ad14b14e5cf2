"""The compiler's account of a program, and the command that asks for it."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tpu_compiler

from ibot_jax.tools.pods.ahead import bytes_needed, costs
from ibot_jax.tools.pods.chips import Chip
from ibot_jax.tools.pods.tpu_program import part_of, read_program, read_schedules

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = """HloModule jit_step, is_scheduled=true

%body.1 (arg: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %arg = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%arg), kind=kLoop, calls=%inner, \
metadata={op_name="jit(train_step)/jvp(student)/Head.bottleneck/mlp_0/add" stack_frame_id=7}, \
backend_config={"estimated_cycles":"100"}
  ROOT %all-reduce.1 = bf16[8,128]{1,0:T(8,128)(2,1)} all-reduce(%fusion.1), \
replica_groups=mesh['data'=2,'fsdp'=2,'tensor'=2] {'data','fsdp'}, to_apply=%add
}

%condition.1 (arg.1: (s32[], f32[8,128])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(12)
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.5), direction=LT
}

%body.2 (arg.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %fusion.9 = f32[4]{0} fusion(%arg.2), calls=%inner, backend_config={"estimated_cycles":"7"}
  %kernel_add_8x128.7 = f32[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
frontend_attributes={kernel_metadata={
"steps":"6"
}}, backend_config={"cost_estimate":{"flops":"2000","bytes_accessed":"512"}}
}

%condition.2 (arg.3: (s32[], s32[])) -> pred[] {
  %constant.6 = s32[]{:T(128)} constant(448)
  %get-tuple-element.2 = s32[]{:T(128)} get-tuple-element(%arg.3), index=0
  %mul.1 = s32[]{:T(128)} multiply(%get-tuple-element.2, %constant.6)
  %get-tuple-element.3 = s32[]{:T(128)} get-tuple-element(%arg.3), index=1
  ROOT %lt.2 = pred[]{:T(512)} compare(%mul.1, %get-tuple-element.3), direction=LT
}

%inner (p: f32[8,128]) -> f32[8,128] {
  ROOT %add.1 = f32[8,128]{1,0} add(%p, %p), backend_config={"estimated_cycles":"99999"}
}

%fused_gather (p.1: bf16[64]) -> (bf16[64], bf16[128], s32[2]) {
  %all-gather.1 = bf16[128]{0} all-gather(%p.1), replica_groups=[4,2]<=[2,2,2]T(0,2,1)
  ROOT %custom-call.2 = (bf16[64]{0}, bf16[128]{0}, s32[2]{0}) custom-call(%all-gather.1)
}

%all-reduce-scatter.3 (p.2: f32[64]) -> f32[32] {
  %all-reduce.9 = f32[64]{0} all-reduce(%p.2), replica_groups={{0,1},{2,3},{4,5},{6,7}}
  ROOT %dynamic-slice.1 = f32[32]{0} dynamic-slice(%all-reduce.9)
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %while.1 = (s32[], f32[8,128]{1,0}) while(%x), condition=%condition.1, body=%body.1
  %while.2 = (s32[], f32[4]{0}) while(%x), condition=%condition.2, body=%body.2
  %all-reduce-start.1 = (f32[256]{0:T(256)}, pred[10]{0}) all-reduce-start(%x), to_apply=%add
  %collective-permute-start.1 = (bf16[6]{0}, bf16[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%x), source_target_pairs={{0,4},{4,0}}
  %async-collective-start = (bf16[64]{0}, bf16[128]{0}, s32[2]{0:S(4)}) fusion(%x), \
kind=kCustom, calls=%fused_gather
  %async-collective-done = bf16[128]{0} fusion(%x), kind=kCustom, calls=%fused_gather
  %fusion.4 = f32[32]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
  %slice.5 = f32[16]{0} slice(%x), backend_config={"estimated_cycles":"9223372036854775807"}
  %custom-call.1 = f32[8,128]{1,0} custom-call(%x), custom_call_target="AllocateBuffer"
  %custom-call.3 = f32[8,128]{1,0} custom-call(%x, %x), custom_call_target="ConcatBitcast"
  %custom-call.7 = f32[8,128]{1,0} custom-call(%x), custom_call_target="Kernel"
  %kernel_add_8x128.2 = f32[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
frontend_attributes={kernel_metadata={
"steps":"6"
}}, backend_config={"cost_estimate":{"flops":"2000","bytes_accessed":"512"}}
  %copy-start.1 = (f32[8]{0}, f32[8]{0:S(1)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done.1 = f32[8]{0} copy-done(%copy-start.1)
  ROOT %dot.1 = f32[8,128]{1,0} fusion(%x), calls=%inner, backend_config={"estimated_cycles":"30"}
}
"""


def test_a_program_is_added_up_with_its_loops_and_without_the_inside_of_fusions():
    program = read_program(PROGRAM, {"data": 2, "fsdp": 2, "tensor": 2})
    # Twelve turns of the counted loop, one of the loop whose end is known at run time only.
    assert program.parts == {"student/Head/mlp": 12 * 100, "other": 7 + 30}
    assert program.cycles == 12 * 100 + 7 + 30
    told = read_program(PROGRAM, {"data": 2, "fsdp": 2, "tensor": 2}, turns=3)
    assert told.cycles == 12 * 100 + 3 * 7 + 30
    assert program.not_estimated == {
        "custom-call": (1, 2 * 4 * 8 * 128),
        "copy-start": (1, 2 * 4 * (8 + 8 + 1)),
        "slice": (1, 2 * 4 * 16),  # its estimate is the largest number that there is
    }


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(train_step)/mul", "other"),
        ("reduce_sum", "other"),
        ("jit(train_step)/views/vmap(vmap())/while/body/eval_jaxpr/mul", "views"),
        ("jit(train_step)/views/jit(_where);jit(train_step)/optimizer", "views"),
        ("jit(train_step)/optimizer/ema/jit(tree_bias_correction)/sub", "optimizer/ema"),
        ("jit(train_step)/teacher/ViT/ViT.together/ViT._tokens/norm/mul", "teacher/ViT/norm"),
        (
            "jit(train_step)/shard_map/transpose(jvp(student))/ViT.together/Block/LayerNorm/mul",
            "student/ViT/Block/LayerNorm, backward",
        ),
        (
            "jit(train_step)/jvp(student)/patch_loss/while/body/transpose(jvp(Head.patch_logits))/"
            "last_layer/dot_general",
            "student/patch_loss/Head/last_layer, backward",
        ),
        (
            "jit(train_step)/jvp(student)/class_loss/bgk,bvk->bgv/dot_general",
            "student/class_loss",
        ),
    ],
)
def test_an_operation_belongs_to_the_part_of_the_step_that_its_name_tells(name, part):
    line = f'  %fusion.1 = f32[8]{{0}} fusion(%x), metadata={{op_name="{name}" stack_frame_id=7}}'
    assert part_of(line) == part


def test_costs_add_up_to_the_step():
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    chip = Chip(clock=1e6, peak=1e9, memory=0, bandwidth=1e9, link=1e6, cores=1)
    found = costs(read_program(PROGRAM, mesh, {"kernel_add_8x128": 300}), chip)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    # All collectives of `test_what_moves_between_chips`, and of what has no estimate the
    # custom call and the slice, but not the copy that goes on beside the rest.
    assert found == pytest.approx(
        {
            "all-reduce over data+fsdp": 2 * 3 / 4 * 12 * 2048 / 1e6,
            "student/Head/mlp": 1200 / 1e6,
            "kernel_add_8x128": 2 * 6 * 300 / 1e6,
            "all-reduce over data+fsdp+tensor": 2 * 7 / 8 * 1034 / 1e6,
            "all-gather over fsdp": 128 / 1e6,
            "reduce-scatter over tensor": 128 / 1e6,
            "other": 37 / 1e6,
            "collective-permute over data": 12 / 1e6,
            "custom-call, by its bytes": 2 * 4 * 8 * 128 / 1e9,
            "slice, by its bytes": 2 * 4 * 16 / 1e9,
        }
    )


def test_what_moves_between_chips_is_told_by_kind_and_axes():
    program = read_program(PROGRAM, {"data": 2, "fsdp": 2, "tensor": 2})
    found = {(c.kind, c.axes): (c.group, c.count, c.size, c.sent) for c in program.collectives}
    assert found == {
        ("all-reduce", "data+fsdp"): (4, 12, 12 * 2048, 2 * 3 / 4 * 12 * 2048),
        ("all-reduce", "data+fsdp+tensor"): (8, 1, 1034, 2 * 7 / 8 * 1034),
        ("collective-permute", "data"): (2, 1, 12, 12),
        ("all-gather", "fsdp"): (2, 1, 256, 128),
        ("reduce-scatter", "tensor"): (2, 1, 128, 128),
    }


def test_a_kernel_takes_the_time_of_its_schedule_or_of_its_work(tmp_path):
    names = {"kernel_add_8x128.2": 300, "kernel_add_8x128.7": 300, "fusion.4": 9}
    for number, (name, bundles) in enumerate(names.items()):
        schedule = f"Schedule analysis:\n\ttotal scheduled bundles:    {bundles}\n"
        path = tmp_path / f"17955{number}-{name}-00-schedule-analysis_final_bundles.txt"
        path.write_text(schedule)
    bundles = read_schedules(tmp_path)
    assert bundles == {"kernel_add_8x128": 300}
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    (kernel,) = read_program(PROGRAM, mesh, bundles).kernels
    assert (kernel.name, kernel.count, kernel.steps) == ("kernel_add_8x128", 2, 6)
    one_core = Chip(clock=1e6, peak=1e9, memory=0, bandwidth=1e9, link=1, cores=1)
    two_cores, slow, far = (
        dataclasses.replace(one_core, **change)
        for change in (dict(cores=2), dict(peak=1e3), dict(bandwidth=256))
    )
    assert kernel.seconds(one_core) == pytest.approx(2 * 6 * 300 / 1e6)
    assert kernel.seconds(two_cores) == pytest.approx(2 * 3 * 300 / 1e6)
    assert kernel.seconds(slow) == 2 * 2.0  # bound by its 2000 FLOPs
    assert kernel.seconds(far) == 2 * 2.0  # and by its 512 bytes
    (unknown,) = read_program(PROGRAM, mesh).kernels  # compiled before, for instance
    assert unknown.bundles is None and unknown.seconds(slow) == 4.0


@pytest.mark.parametrize(
    ("refusal", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (74.50G) exceeds available HBM (15.75G). HLO "
            "module: jit_train_step.",
            74.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 1.25T of 15.75G hbm. Exceeded hbm capacity by 1.23T.",
            1.25 * 2**40,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", None),
    ],
)
def test_what_a_program_needs_is_read_from_the_refusal(refusal, needed):
    assert bytes_needed(refusal) == needed


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ibot_jax.tools.aot", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )


def test_without_the_compiler_one_line_says_how_to_get_it():
    if tpu_compiler.IS_HERE:
        pytest.skip("it is here")
    done = run("--config=configs/vits16.py", "--topology=v5e:2x2")
    assert done.returncode == 2
    assert done.stderr == "error: the TPU compiler is missing; pip install 'ibot-jax[aot]'\n"


def test_a_frozen_teacher_is_refused_in_one_line():
    teacher = ("--config.method=distillation", "--config.frozen.teacher=x.npz")
    done = run("--config=configs/vits16.py", *teacher, "--topology=v5e:2x2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: frozen.teacher='x.npz' is not read here, and its size ")


SMALL = [
    "--config=configs/vits16.py",
    *("--config.model.width=64", "--config.model.heads=2", "--config.model.depth=2"),
    *("--config.data.global_size=32,32", "--config.data.local_size=16,16"),
    *("--config.head.prototypes=128", "--config.head.patch_prototypes=128"),
    "--config.head.hidden_dim=64",
]


TOO_LARGE = """
import sys, jax
from ibot_jax.tools.pods.ahead import pod_devices
from ibot_jax.tools.pods.chips import CHIPS
device = pod_devices(sys.argv[1])[0]
print(device.device_kind, CHIPS[device.device_kind].memory, sep="\\n")
x = jax.ShapeDtypeStruct((2**38,), "float32", sharding=jax.sharding.SingleDeviceSharding(device))
try:
    jax.jit(lambda x: x + 1).lower(x).compile()
except jax.errors.JaxRuntimeError as error:
    print(error)
"""


@pytest.mark.slow
@tpu_compiler.needed
class TestWithTheCompiler:
    def test_a_small_step_for_a_small_pod(self, tmp_path):
        path = tmp_path / "report.json"
        done = run(
            *SMALL, "--topology=v5p:2x2x1", "--mesh=2x2x1", "--batch-size=16", f"--json={path}"
        )
        assert done.returncode == 0, done.stderr
        assert "not a measurement" in done.stdout
        report = json.loads(path.read_text())
        assert report["chips"] == 4 and report["fits"]
        assert report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
        assert {moved["axes"] for moved in report["collectives"]} <= {"data", "fsdp", "data+fsdp"}
        assert sum(report["memory"].values()) < report["memory_of_chip"]
        assert sum(report["costs"].values()) == pytest.approx(report["step_seconds"])
        # The compiler fuses operations of several parts, but little is left without a name.
        assert report["costs"].get("other", 0) < 0.1 * report["step_seconds"]
        shown = re.findall(r"^  [\d.]+ ms +[\d.]+ %  (.*)$", done.stdout, re.MULTILINE)
        assert shown == list(report["costs"])[:10]
        # The state: two trees of parameters, moments of one.
        assert report["memory"]["student"] == report["memory"]["teacher"]
        assert 2 * report["memory"]["student"] <= report["memory"]["moments"]

    def test_a_step_of_dinov2_compiles(self, tmp_path):
        """Its class tokens come in chunks, of all rows: the compiler broke down on their order."""
        path = tmp_path / "report.json"
        settings = [
            *("--config.method=dinov2", "--config.loss.targets=sinkhorn"),
            *("--config.loss.koleo_weight=0.1", "--config.loss.koleo_group=8"),
            *("--config.loss.max_logits=1024", "--config.masks.kind=dinov2"),
            *("--config.data.local_views=2", "--config.data.augment=host"),
        ]
        done = run(*SMALL, *settings, "--topology=v5e:2x2", "--batch-size=16", f"--json={path}")
        assert done.returncode == 0, done.stderr
        assert json.loads(path.read_text())["fits"]

    def test_a_step_that_does_not_fit_is_told_with_what_it_needs(self, tmp_path):
        path = tmp_path / "report.json"
        done = run(*SMALL, "--topology=v5e:2x2", "--batch-size=1200000", f"--json={path}")
        assert done.returncode == 1, done.stderr
        assert "of 15.75 GiB a chip: it DOES NOT FIT; a smaller --batch-size, " in done.stdout
        report = json.loads(path.read_text())
        # Two global views of 32 x 32 bytes, and ten local ones of 16 x 16, of three colours.
        assert report["memory"]["batch"] > 300_000 * (2 * 32 * 32 + 10 * 16 * 16) * 3
        assert sum(report["memory"].values()) > report["memory_of_chip"]

    def test_a_step_for_pods_of_two_sizes_over_fsdp(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        pods = "--topology=v5e:2x2,v5e:4x4", "--mesh=1xNx1", "--scaling=weak"
        for _ in range(2):
            done = run(*SMALL, *pods, "--batch-size=16", f"--json={path}")
            assert done.returncode == 0, done.stderr
        small, large = map(json.loads, path.read_text().splitlines())
        assert (small["mesh"]["fsdp"], large["mesh"]["fsdp"]) == (4, 16)
        assert (small["batch_size"], large["batch_size"]) == (16, 64)
        # Of the state a chip has a part, and of the batch as much as before.
        assert large["memory"]["student"] < small["memory"]["student"] / 3
        assert large["memory"]["batch"] == small["memory"]["batch"]
        assert done.stdout.splitlines()[2].startswith("v5e:4x4         1x16x1      64")

    @pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
    def test_a_chip_has_the_memory_that_the_compiler_hands_out(self, topology):
        done = subprocess.run(
            [sys.executable, "-c", TOO_LARGE, topology], cwd=ROOT, capture_output=True, text=True
        )
        kind, memory, refusal = done.stdout.split("\n", 2)
        available = re.search(r"exceeds available HBM \(([\d.]+)G\)", refusal)
        assert float(available[1]) == pytest.approx(float(memory) / 2**30, abs=1e-9), kind

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--topology=v9:2x2"], "--topology=v9:2x2: "),
            (
                ["--topology=v5e:2x2", "--batch-size=18"],
                "batch_size=18 is not divisible by the 4",
            ),
            (["--topology=v5e:2x2", "--mesh=4x4"], "--mesh=4x4 is no mesh; write DATAxFSDPxTENSOR"),
            (["--topology=v5e:2x2", "--mesh=8x1x1"], "mesh.data=8 x mesh.fsdp=1 x mesh.tensor=1"),
            (["--topology=v5e:2x2", "--mesh=NxNx1"], "--mesh=NxNx1 is no mesh; write DATAxFSDPxT"),
            (["--topology=v5e:2x2", "--mesh=3xNx1"], "--mesh=3xNx1: 4 chips are no multiple of 3"),
            (
                ["--topology=v5e:2x2", "--scaling=weak", "--batch-size=18"],
                "--batch-size=18 is no multiple of the first pod's 4 chips",
            ),
            (["--topology=v5e:2x2", "--scaling=weak", "--fit"], "--fit is for one pod"),
        ],
    )
    def test_mistakes_are_one_line(self, arguments, message):
        done = run(*SMALL, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {message}")
        assert done.stderr.count("\n") == 1
