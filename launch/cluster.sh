#!/usr/bin/env bash
# Makes a GKE cluster for launch/gke.sh with Cluster Toolkit: a network, accounts, JobSet, the Cloud
# Storage FUSE driver, and a node pool for each TPU slice.
#
#   launch/cluster.sh blueprint                      prints the blueprint
#   launch/cluster.sh [--dry-run] deploy             creates what it describes, and asks before
#   launch/cluster.sh [--dry-run] destroy            removes all of it
#
# Cluster Toolkit's program, gcluster, must be on the path. It keeps what it knows of the cluster in the
# folder NAME of the current folder: run deploy and destroy in the same one.
# Settings: PROJECT, ZONE, NAME, SLICES, SPOT, RESERVATION, FLEX_START, MAX_RUN_DURATION, GKE_*.

set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

REGION=${ZONE%-*}

# A network of its own: NUMBER, its addresses, and the addresses of pods and services.
network() {
  cat <<EOF
  - id: network-$1
    source: modules/network/vpc
    settings:
      network_name: $NAME-net-$1
      subnetworks:
      - subnet_name: $NAME-sub-$1
        subnet_region: $REGION
        subnet_ip: $2
      firewall_rules:
      - name: $NAME-internal-$1
        ranges: [192.168.0.0/16]
        allow:
        - protocol: tcp
          ports: ["0-65535"]
        - protocol: udp
          ports: ["0-65535"]
        - protocol: icmp
EOF
  [[ $1 == 0 ]] || return 0
  cat <<EOF
      secondary_ranges_list:
      - subnetwork_name: $NAME-sub-0
        ranges:
        - range_name: pods
          ip_cidr_range: 10.4.0.0/14
        - range_name: services
          ip_cidr_range: 10.0.32.0/20
EOF
}

# Machines of v6e and tpu7x have two network cards, whose second one is for traffic between slices.
two_cards() {
  [[ $GKE_ACCELERATOR == tpu-v6e-slice || $GKE_ACCELERATOR == tpu7x ]]
}

service_account() { # ID, NAME and ROLES
  local id=$1 name=$2
  shift 2
  cat <<EOF
  - id: $id
    source: modules/project/service-account
    settings:
      name: $name
      project_roles: [$(IFS=, && echo "$*")]
EOF
}

cluster() {
  cat <<EOF
  - id: cluster
    source: modules/scheduler/gke-cluster
    use: [network-0, workload-account]
    settings:
      system_node_pool_machine_type: n2-standard-8
      system_node_pool_taints: []
      enable_private_endpoint: false
      configure_workload_identity_sa: true
      enable_gcsfuse_csi: true
      release_channel: REGULAR
      master_authorized_networks:
      - cidr_block: $GKE_AUTHORIZED
        display_name: kubectl
EOF
  ! two_cards || echo "      additional_networks: \$(network-1.instance_additional_networks)"
  echo '    outputs: [instructions]'
}

# How the node pool asks for its machines.
capacity() {
  case $CAPACITY in
    SPOT) echo '      spot: true' ;;
    RESERVED)
      cat <<EOF
      reservation_affinity:
        consume_reservation_type: SPECIFIC_RESERVATION
        specific_reservations:
        - name: ${RESERVATION##*/}
EOF
      ;;
    FLEX_START)
      cat <<EOF
      enable_flex_start: true
      max_run_duration: $(seconds "$MAX_RUN_DURATION")
      auto_repair: false # as flex-start needs
      autoscaling_min_node_count: 0
      autoscaling_max_node_count: $GKE_HOSTS
EOF
      ;;
  esac
}

node_pool() {
  local uses="cluster, node-account" disk=hyperdisk-balanced
  two_cards || disk=pd-balanced
  if [[ $GKE_ACCELERATOR == tpu7x ]]; then
    uses+=", workload-policy"
    cat <<EOF
  - id: workload-policy
    source: modules/compute/resource-policy
    settings:
      name: $NAME-policy
      project_id: $PROJECT
      region: $REGION
      workload_policy:
        type: HIGH_THROUGHPUT
        accelerator_topology: $GKE_TOPOLOGY
EOF
  fi
  cat <<EOF
  - id: slices
    source: modules/compute/gke-node-pool
    use: [$uses]
    settings:
      name: $NAME-pool
      num_slices: $SLICES
      machine_type: $GKE_MACHINE
      disk_type: $disk
      auto_upgrade: true
      zones: [$ZONE]
EOF
  if [[ $GKE_ACCELERATOR != tpu7x ]]; then
    printf '      placement_policy:\n        type: COMPACT\n        tpu_topology: %s\n' "$GKE_TOPOLOGY"
  fi
  if two_cards; then
    echo "      additional_networks: \$(network-1.instance_additional_networks)"
    echo '      enable_dranet: true'
  fi
  capacity
}

blueprint() {
  cat <<EOF
# Of launch/cluster.sh, for Cluster Toolkit.
blueprint_name: $NAME

vars:
  project_id: $PROJECT
  deployment_name: $NAME
  region: $REGION
  zone: $ZONE

deployment_groups:
- group: primary
  modules:
EOF
  network 0 192.168.0.0/18
  ! two_cards || network 1 192.168.64.0/18
  service_account node-account "$NAME-nodes" logging.logWriter monitoring.metricWriter \
    monitoring.viewer stackdriver.resourceMetadata.writer storage.objectViewer artifactregistry.reader
  service_account workload-account "$NAME-runs" logging.logWriter monitoring.metricWriter \
    storage.objectUser artifactregistry.reader
  cluster
  node_pool
  cat <<EOF
  - id: jobset
    source: modules/management/kubectl-apply
    use: [cluster]
    settings:
      jobset:
        install: true
EOF
}

deploy() {
  if "$DRY_RUN"; then
    blueprint
  else
    blueprint >"$NAME-cluster.yaml"
  fi
  run gcluster deploy "$NAME-cluster.yaml"
}

destroy() {
  run gcluster destroy "$NAME"
}

case ${1:-} in
  --dry-run) DRY_RUN=true && shift ;;
  --help | -h) usage "$0" ;;
esac
[[ $# -eq 1 ]] || usage "$0" "$USER_ERROR"
need PROJECT ZONE NAME GKE_ACCELERATOR GKE_MACHINE GKE_TOPOLOGY GKE_HOSTS

case $1 in
  blueprint | deploy)
    need GKE_AUTHORIZED
    check_gke_capacity
    "$1"
    ;;
  destroy) destroy ;;
  *) usage "$0" "$USER_ERROR" ;;
esac
