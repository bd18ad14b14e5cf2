"""The compiler's account of a program, and the command that asks for it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ibot_jax.tools.tpu_program import read_program

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = """HloModule jit_step, is_scheduled=true

%body.1 (arg: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %arg = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%arg), kind=kLoop, calls=%inner, \
backend_config={"estimated_cycles":"100"}
  ROOT %all-reduce.1 = bf16[8,128]{1,0:T(8,128)(2,1)} all-reduce(%fusion.1), to_apply=%add
}

%condition.1 (arg.1: (s32[], f32[8,128])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(12)
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.5), direction=LT
}

%body.2 (arg.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %fusion.9 = f32[4]{0} fusion(%arg.2), calls=%inner, backend_config={"estimated_cycles":"7"}
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

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %while.1 = (s32[], f32[8,128]{1,0}) while(%x), condition=%condition.1, body=%body.1
  %while.2 = (s32[], f32[4]{0}) while(%x), condition=%condition.2, body=%body.2
  %all-reduce-start.1 = (f32[256]{0:T(256)}, pred[10]{0}) all-reduce-start(%x), to_apply=%add
  %custom-call.1 = f32[8,128]{1,0} custom-call(%x), custom_call_target="AllocateBuffer"
  ROOT %dot.1 = f32[8,128]{1,0} fusion(%x), calls=%inner, backend_config={"estimated_cycles":"30"}
}
"""


def test_a_program_is_added_up_with_its_loops_and_without_the_inside_of_fusions():
    program = read_program(PROGRAM)
    # Twelve turns of the counted loop, one of the loop whose end is known at run time only.
    assert program.cycles == 12 * 100 + 7 + 30
    assert program.collectives == {"all-reduce": 12 * 8 * 128 * 2 + 256 * 4 + 10}
    assert program.not_estimated == {"custom-call": 1}


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ibot_jax.tools.aot", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )


def test_without_the_compiler_one_line_says_how_to_get_it():
    if has_compiler():
        pytest.skip("it is here")
    done = run("--config=configs/vits16.py", "--topology=v5e:2x2")
    assert done.returncode == 2
    assert done.stderr == "error: the TPU compiler is missing; pip install 'ibot-jax[aot]'\n"


def has_compiler():
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('libtpu') is None)"
    return subprocess.run([sys.executable, "-c", probe]).returncode == 0


SMALL = [
    "--config=configs/vits16.py",
    *("--config.model.width=64", "--config.model.heads=2", "--config.model.depth=2"),
    *("--config.data.global_size=32,32", "--config.data.local_size=16,16"),
    *("--config.head.prototypes=128", "--config.head.patch_prototypes=128"),
    "--config.head.hidden_dim=64",
]


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="the TPU compiler is not installed")
class TestWithTheCompiler:
    @pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
    def test_a_small_step_for_a_small_pod(self, topology, tmp_path):
        path = tmp_path / "report.json"
        done = run(*SMALL, f"--topology={topology}", "--batch=16", f"--json={path}")
        assert done.returncode == 0, done.stderr
        assert "not a measurement" in done.stdout
        report = json.loads(path.read_text())
        assert report["chips"] == 4 and report["fits"]
        assert 0 < report["step_seconds"] < 1
        # One sum of gradients, float32, and besides it no more than the metrics.
        parameters = 2 * (12 * 64 * 64) + 64 * 64 + 64 * 256 + 256 * 128
        assert set(report["collectives"]) == {"all-reduce"}
        assert 4 * parameters < report["collectives"]["all-reduce"] < 1.5 * 4 * parameters + 2**18

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--topology=v9:2x2"], "--topology=v9:2x2: "),
            (["--topology=v5e:2x2", "--batch=18"], "batch_size=18 is not divisible by the 4 dev"),
        ],
    )
    def test_mistakes_are_one_line(self, arguments, message):
        done = run(*SMALL, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {message}")
        assert done.stderr.count("\n") == 1
