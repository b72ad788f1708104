#!/usr/bin/env bash
# Builds the container that the Cloud TPU and GKE scripts run, and pushes it.
#
#   launch/image.sh [--dry-run] build|push
#
# Settings: IMAGE, ACCELERATOR.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac
need IMAGE ACCELERATOR

cd "$LAUNCH/.."
case ${1:-} in
  build)
    run docker build --file=launch/Dockerfile --build-arg="ACCELERATOR=$ACCELERATOR" \
      --tag="$IMAGE" .
    ;;
  push) run docker push "$IMAGE" ;;
  *) usage "$0" "$USER_ERROR" ;;
esac
