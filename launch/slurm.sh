#!/usr/bin/env bash
# Trains on GPU nodes under SLURM:
#
#   launch/slurm.sh [--dry-run] --nodes=2 --gpus=8 [OPTION ...] -- PROGRAM FLAGS
#
#   --nodes=1         how many
#   --gpus=NUMBER     of each node, and as many tasks there
#   --cpus=NUMBER     of each task; they make the batches
#   --partition=NAME, --account=NAME, --time=TIME   as sbatch takes them
#
# Submits launch/slurm.sbatch from this checkout, which all nodes must see, as well as --workdir and
# the data. PYTHON names the Python that runs there; .venv/bin/python by default. The program's flags
# are those of python -m ibot_jax.main. docs/pods.md is the runbook. Not tried under SLURM yet.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/options.sh

dry_run='' nodes=1 gpus='' cpus='' partition='' account='' time=''
parse_options "dry-run nodes= gpus= cpus= partition= account= time=" "$@"
[ ${#words[@]} -eq 0 ] || misuse "${words[0]} is one word too many (the program's flags follow --)"
require gpus cpus
require_count nodes gpus cpus
require_form '[^[:space:][:cntrl:]]+' "name without spaces" partition account
require_form '[0-9]+([-:][0-9]+)*' "time such as 24:00:00" time
require_program --config=
require_program --workdir= "which all nodes see"

execute sbatch --nodes="$nodes" --gpus-per-node="$gpus" --ntasks-per-node="$gpus" \
  --cpus-per-task="$cpus" ${partition:+"--partition=$partition"} \
  ${account:+"--account=$account"} ${time:+"--time=$time"} launch/slurm.sbatch "${program[@]}"
