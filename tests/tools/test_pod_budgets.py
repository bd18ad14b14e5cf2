"""No change makes the step of a pod worse unnoticed, by the TPU compiler's figures."""

import json

import pod_budgets
import pytest
import tpu_compiler

TOLERANCES = {"flops": 0.02, "memory": 0.05, "cycles": 0.05}


@pytest.mark.slow
@tpu_compiler.needed
@pytest.mark.parametrize("case", pod_budgets.CASES)
def test_a_step_stays_within_its_budget(case):
    """What became better by more than the tolerance is to be recorded: tests/pod_budgets.py."""
    budget = json.loads(pod_budgets.FILE.read_text())[case]
    found = pod_budgets.measure(case)
    for figure, tolerance in TOLERANCES.items():
        assert found[figure] == pytest.approx(budget[figure], rel=tolerance), figure
    for figure, tolerance in (("kernels", 0.05), ("collectives", 0.02)):
        assert found[figure] == pytest.approx(budget[figure], rel=tolerance), figure
