#!/usr/bin/env bash
# Runs on every worker of a slice. tpu.sh copies this file and the settings there.
#
#   launch/tpu_worker.sh [--dry-run] setup           mounts the bucket and pulls the container
#   launch/tpu_worker.sh [--dry-run] train FLAGS     runs nonlocal_jax.main in it
#
# Settings: BUCKET, IMAGE.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

MOUNT=/mnt/bucket
CONTAINER=nonlocal_jax
STOP_SECONDS=60 # time to save before the container is killed

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc site=https://packages.cloud.google.com/apt
  local list="deb [signed-by=$key] $site gcsfuse-\$(lsb_release -cs) main"
  run sudo bash -c "curl -fsSL $site/doc/apt-key.gpg > $key"
  run sudo bash -c "echo \"$list\" > /etc/apt/sources.list.d/gcsfuse.list"
  run sudo apt-get update -q
  run sudo apt-get install -qy gcsfuse
}

setup() {
  command -v gcsfuse >/dev/null || install_gcsfuse
  run sudo mkdir -p "$MOUNT"
  mountpoint -q "$MOUNT" || run sudo gcsfuse --implicit-dirs -o allow_other "$BUCKET" "$MOUNT"
  # The token belongs to the slice's service account, and is valid for an hour.
  run bash -c "gcloud auth print-access-token |
    sudo docker login -u oauth2accesstoken --password-stdin https://${IMAGE%%/*}"
  run sudo docker pull "$IMAGE"
}

# If the connection of an earlier attempt broke, its container still runs. It saves and stops first.
train() {
  run sudo docker stop -t "$STOP_SECONDS" "$CONTAINER" 2>/dev/null || true
  run sudo docker rm --force "$CONTAINER" 2>/dev/null || true
  run sudo docker run --rm --name="$CONTAINER" --init --privileged --net=host \
    --stop-timeout="$STOP_SECONDS" "--volume=$MOUNT:/bucket" \
    --env=JAX_COMPILATION_CACHE_DIR=/bucket/compiled "$IMAGE" \
    python -m nonlocal_jax.main "$@"
}

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac
need BUCKET IMAGE

case ${1:-} in
  setup | train) "$@" ;;
  *) usage "$0" "$USER_ERROR" ;;
esac
