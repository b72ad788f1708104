#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a JobSet, which restarts the run after a preemption.
#
#   launch/gke.sh manifest FLAGS                     prints the manifest
#   launch/gke.sh [--dry-run] apply FLAGS            starts nonlocal_jax.main with these flags
#   launch/gke.sh [--dry-run] logs                   follows the output of the first host
#   launch/gke.sh [--dry-run] delete                 ends it
#
# kubectl must be configured for the cluster. The cluster needs JobSet and the Cloud Storage FUSE driver:
# launch/cluster.sh makes one. Settings: NAME, BUCKET, IMAGE, SLICES, SPOT, RESERVATION, FLEX_START, GKE_*.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

SAVE_SECONDS=60 # between SIGTERM and SIGKILL

# The flags as lines of a YAML list; JSON strings are YAML.
arguments() {
  local flag
  for flag in "$@"; do
    flag=${flag//\\/\\\\}
    printf '              - "%s"\n' "${flag//\"/\\\"}"
  done
}

# The label of the nodes that are asked for.
capacity_selector() {
  case $CAPACITY in
    SPOT) printf '              cloud.google.com/gke-spot: "true"\n' ;;
    RESERVED) printf '              cloud.google.com/reservation-name: "%s"\n' "${RESERVATION##*/}" ;;
    FLEX_START) printf '              cloud.google.com/gke-flex-start: "true"\n' ;;
  esac
}

# Slices reach each other on the network of the hosts.
host_network() {
  ((SLICES == 1)) ||
    printf '            hostNetwork: true\n            dnsPolicy: ClusterFirstWithHostNet\n'
}

manifest() {
  cat <<EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    # The pods of a slice have a node pool of their own.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $GKE_RESTARTS
    rules:
    # Exit code $USER_ERROR, an error that a person must correct, is not retried.
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: $SLICES
    template:
      spec:
        parallelism: $GKE_HOSTS
        completions: $GKE_HOSTS
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: train
              operator: In
              values: [$USER_ERROR]
        template:
          metadata:
            annotations:
              gke-gcsfuse/volumes: "true"
          spec:
            restartPolicy: Never
            serviceAccountName: $GKE_SERVICE_ACCOUNT
            terminationGracePeriodSeconds: $SAVE_SECONDS
$(host_network)
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $GKE_ACCELERATOR
              cloud.google.com/gke-tpu-topology: $GKE_TOPOLOGY
$(capacity_selector)
            containers:
            - name: train
              image: $IMAGE
              command: [python, -m, nonlocal_jax.main]
              args:
$(arguments "$@")
              env:
              - name: JAX_COMPILATION_CACHE_DIR
                value: /bucket/compiled
              ports:
              - containerPort: 8482 # of this run
              - containerPort: 8080 # between slices
              resources:
                limits:
                  google.com/tpu: $GKE_CHIPS_PER_HOST
              volumeMounts:
              - name: bucket
                mountPath: /bucket
            volumes:
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes:
                  bucketName: $BUCKET
                  mountOptions: implicit-dirs
EOF
}

apply() {
  if "$DRY_RUN"; then
    manifest "$@"
    run kubectl apply --filename=-
  else
    manifest "$@" | kubectl apply --filename=-
  fi
}

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac
[[ $# -gt 0 ]] || usage "$0" "$USER_ERROR"
command=$1
shift
need NAME BUCKET IMAGE GKE_ACCELERATOR GKE_TOPOLOGY GKE_HOSTS GKE_CHIPS_PER_HOST

case $command in
  manifest | apply)
    check_gke_capacity
    "$command" "$@"
    ;;
  logs) run kubectl logs --follow "--selector=jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0" ;;
  delete) run kubectl delete jobset "$NAME" ;;
  *) usage "$0" "$USER_ERROR" ;;
esac
