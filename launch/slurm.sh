#!/usr/bin/env bash
# Trains on GPU nodes of SLURM, one process on each node. The job is requeued after its time limit.
#
#   launch/slurm.sh [--dry-run] FLAGS of nonlocal_jax.main
#
# Settings: NAME, PYTHON, PARTITION, NODES, GPUS_PER_NODE, CPUS_PER_NODE, TIME_LIMIT, SAVE_SECONDS.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac
[[ $# -gt 0 ]] || usage "$0" "$USER_ERROR"
need NAME NODES GPUS_PER_NODE CPUS_PER_NODE TIME_LIMIT SAVE_SECONDS

options=("--job-name=$NAME" "--nodes=$NODES" --ntasks-per-node=1)
options+=("--gpus-per-node=$GPUS_PER_NODE" "--cpus-per-task=$CPUS_PER_NODE")
options+=("--time=$TIME_LIMIT" "--signal=TERM@$SAVE_SECONDS" --requeue --open-mode=append)
[[ -z $PARTITION ]] || options+=("--partition=$PARTITION")

cd "$LAUNCH/.."
run sbatch "${options[@]}" launch/slurm_job.sh "$@"
if "$DRY_RUN"; then
  echo "# where that is:"
  launch/slurm_job.sh --dry-run "$@"
fi
