#!/usr/bin/env bash
# Trains on an existing Cloud TPU VM with one host (v5litepod-8, v6e-8, v4-8, ...):
#
#   launch/tpu_vm.sh [--dry-run] NAME ZONE --config=configs/vits16.py --workdir=gs://BUCKET/RUN ...
#
# It copies this checkout there, installs it with jax[tpu], and starts training in tmux, where it
# goes on when the connection ends. Called again it resumes the run, on a new VM too if the workdir
# is in a bucket. Needs gcloud, logged in, with a project set. Not tried on a TPU yet.
set -euo pipefail

run=()
if [ "${1:-}" = --dry-run ]; then
  run=(echo)
  shift
fi
if [ $# -lt 3 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
cd "$(dirname "$0")/.."

tpu=(gcloud compute tpus tpu-vm)
archive=$(mktemp -t ibot_jax.XXXXXX.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --prefix=ibot_jax/ --output="$archive" HEAD

train="cd ibot_jax && .venv/bin/python -m ibot_jax.main$(printf ' %q' "$@") 2>&1 | tee -a ../train.log"
install="tar -xzf ibot_jax.tar.gz && cd ibot_jax && python3 -m venv .venv \
&& .venv/bin/pip install --quiet '.[tpu]'"

"${run[@]}" "${tpu[@]}" scp "$archive" "$name:ibot_jax.tar.gz" --zone="$zone"
"${run[@]}" "${tpu[@]}" ssh "$name" --zone="$zone" --command="$install"
"${run[@]}" "${tpu[@]}" ssh "$name" --zone="$zone" \
  --command="tmux new-session -d -s ibot $(printf '%q' "$train")"
echo "Watch it: ${tpu[*]} ssh $name --zone=$zone --command='tail -f train.log'"
