#!/usr/bin/env bash
# The job of slurm.sh: one task on every node. A preempted run goes back into the queue.
#
#   launch/slurm_job.sh [--dry-run] FLAGS of nonlocal_jax.main
#
# SLURM runs a copy of this file in the folder of the repository.

set -euo pipefail
# shellcheck source=launch/lib.sh
source launch/lib.sh

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac

code=0
# --wait: after a task ends, the others have two minutes to save.
run srun --wait=120 "$PYTHON" -m nonlocal_jax.main "$@" || code=$?
if "$DRY_RUN" || ((code == PREEMPTED)); then
  run scontrol requeue "${SLURM_JOB_ID:-JOB}"
fi
exit "$code"
