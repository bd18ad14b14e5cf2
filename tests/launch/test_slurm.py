"""slurm.sh and the job that it submits."""

import pytest
from scripts import assert_misuse, calls, run_script, stand_in

FLAGS = ("--config=configs/vitb16.py", "--workdir=/shared/run", "--config.duration=4 epochs")


def test_dry_run_prints_the_submission_and_submits_nothing(tmp_path):
    stand_in(tmp_path, "sbatch", "exit 1")
    options = ("--nodes=2", "--gpus=8", "--cpus=12", "--partition=a100", "--time=24:00:00")
    result = run_script("slurm.sh", "--dry-run", *options, "--", *FLAGS, bin_dir=tmp_path)
    assert result.returncode == 0 and calls(tmp_path) == []
    assert result.stdout == (
        "sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=12 "
        "--partition=a100 --time=24:00:00 launch/slurm.sbatch "
        "--config=configs/vitb16.py --workdir=/shared/run '--config.duration=4 epochs'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--gpus"]),
        (["--gpus=8"], ["--cpus"]),
        (["--gpus=8", "--cpus=4", "--nodes=all"], ["--nodes=all"]),
        (["--gpus=8", "--cpus=4", "job"], ["job"]),
        (["--gpus=8", "--cpus=4", "--partition=a --wrap=x"], ["--partition=a --wrap=x"]),
        (["--gpus=8", "--cpus=4", "--time=soon"], ["--time=soon"]),
        (["--gpus=8", "--cpus=4"], ["--config="]),
        (["--gpus=8", "--cpus=4", "--", "--config=c.py"], ["--workdir="]),
    ],
)
def test_a_mistake_is_one_line(arguments, words):
    assert_misuse(run_script("slurm.sh", *arguments), *words)


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (1, False), (2, False), (130, True), (143, True)]
)
def test_the_job_is_requeued_where_a_signal_ended_it(tmp_path, code, requeued):
    stand_in(tmp_path, "srun", f"exit {code}")
    stand_in(tmp_path, "scontrol", "exit 0")
    job = {"SLURM_JOB_ID": "42", "SLURM_CPUS_PER_TASK": "12", "PYTHON": "python"}
    result = run_script("slurm.sbatch", *FLAGS, bin_dir=tmp_path, **job)
    step, *rest = calls(tmp_path)
    assert step.startswith("srun ") and step.endswith(f"-m ibot_jax.main {' '.join(FLAGS)}")
    assert rest == (["scontrol requeue 42"] if requeued else [])
    assert result.returncode == (0 if requeued else code)
