#!/usr/bin/env bash
# What slurm.sh submits: one task on every node, and the queue again when the run was preempted.
#
#   launch/slurm_job.sh [--dry-run] FLAGS of nonlocal_jax.main
#
# SLURM runs a copy of this file in the folder that slurm.sh was in: the repository.

set -euo pipefail
# shellcheck source=launch/lib.sh
source launch/lib.sh

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac

code=0
# --wait: a task that ends leaves the others two minutes to save.
run srun --wait=120 "$PYTHON" -m nonlocal_jax.main "$@" || code=$?
if "$DRY_RUN" || ((code == PREEMPTED)); then
  run scontrol requeue "${SLURM_JOB_ID:-JOB}"
fi
exit "$code"
