#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a JobSet:
#
#   launch/gke.sh [--dry-run] NAME --image=IMAGE --accelerator=tpu-v5-lite-podslice --topology=4x4
#       [OPTION ...] -- PROGRAM FLAGS
#
#   --image=IMAGE           built from launch/Dockerfile, in a registry that the cluster reads
#   --accelerator=NAME      value of the node label cloud.google.com/gke-tpu-accelerator
#   --topology=AxB[xC]      chips of a slice; value of cloud.google.com/gke-tpu-topology
#   --chips-per-host=4      8 for the machine types that end in -8t
#   --slices=1              more are one run over several slices (multislice)
#   --spot                  on spot nodes
#   --restarts=20           how many preemptions and crashes the run survives
#   --service-account=NAME  the cluster's account that may write to the bucket
#
# --dry-run prints the manifest, which it else hands to kubectl apply. The program's flags are those
# of python -m ibot_jax.main. The cluster needs the JobSet controller. docs/pods.md is the runbook.
# Not tried on a cluster yet.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/options.sh

dry_run='' image='' accelerator='' topology='' chips_per_host='' slices=1 spot='' restarts=20
service_account=default
parse_options "dry-run image= accelerator= topology= chips-per-host= slices= spot restarts= \
service-account=" "$@"
[ ${#words[@]} -gt 0 ] || misuse "the run's name is missing"
[ ${#words[@]} -eq 1 ] || misuse "${words[1]} is one word too many (the program's flags follow --)"
name=${words[0]}
# Kubernetes makes host names from it: NAME-slice-0-15 and more.
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  misuse "$name is no name: a-z, 0-9 and -, at most 40"
require image accelerator topology
require_count slices restarts
require_form '[A-Za-z0-9][-A-Za-z0-9._/:@]*' "image such as HOST/PROJECT/NAME:TAG" image
require_form '[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?' "value of a label" accelerator
require_form '[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?' "service account's name" service-account
require_form '[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){1,2}' "topology such as 4x4 or 4x4x8" topology
chips=$((${topology//x/*}))
if [ -z "$chips_per_host" ]; then chips_per_host=$((chips < 4 ? chips : 4)); fi
require_count chips-per-host
[ $((chips % chips_per_host)) -eq 0 ] ||
  misuse "--chips-per-host=$chips_per_host does not divide the $chips chips of $topology"
hosts=$((chips / chips_per_host))

# Demands that the program's flags can be told to Kubernetes, which puts variables of the container
# in the place of $(NAME) and $ in that of $$, by YAML, which knows no other control characters.
require_flags() {
  local LC_ALL=C word
  for word in "$@"; do
    [[ ! $word =~ \$\([-._A-Za-z][-._A-Za-z0-9]*\)|\$\$ ]] ||
      misuse "the program's flag $word holds ${BASH_REMATCH[0]}, which Kubernetes would replace"
    [[ ! ${word//[$'\n\r\t']/} =~ [[:cntrl:]] ]] ||
      misuse "the program's flag $word holds a control character"
  done
}

# Prints texts as a list of double-quoted scalars of YAML, the form that keeps every line break.
yaml_list() {
  local LC_ALL=C text
  for text in "$@"; do
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\r'/\\r}
    text=${text//$'\t'/\\t}
    # Next line, line and paragraph separator are breaks, too.
    text=${text//$'\xc2\x85'/\\N}
    text=${text//$'\xe2\x80\xa8'/\\L}
    text=${text//$'\xe2\x80\xa9'/\\P}
    printf '%s- "%s"\n' "                    " "$text"
  done
}

require_program --config=
require_program --workdir=gs:// "a bucket, which all pods reach and which outlives them"
require_flags "${program[@]}"

# There is no rule that spares a restart after exit status 2, a mistake: --restarts bounds them all.
manifest() {
  cat <<EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "$name"
  annotations:
    # A slice is a node pool of its own.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          # A run that lost one pod is lost: JobSet starts all of them again, and they resume.
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              # To save in. A preempted node grants less; see docs/pods.md.
              terminationGracePeriodSeconds: 300
              serviceAccountName: "$service_account"
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: "$accelerator"
                cloud.google.com/gke-tpu-topology: "$topology"
EOF
  if [ -n "$spot" ]; then
    cat <<EOF
                cloud.google.com/gke-spot: "true"
              tolerations:
                - key: cloud.google.com/gke-spot
                  operator: Equal
                  value: "true"
                  effect: NoSchedule
EOF
  fi
  cat <<EOF
              containers:
                - name: train
                  image: "$image"
                  # The TPU's driver locks memory, which takes root to allow.
                  command:
                    - bash
                    - -c
                    - 'ulimit -l 68719476736 && exec python -m ibot_jax.main "\$@"'
                    - train
                  args:
$(yaml_list "${program[@]}")
                  ports:
                    - containerPort: 8471
                    - containerPort: 8080
                  securityContext:
                    runAsUser: 0
                    capabilities:
                      add: [SYS_RESOURCE]
                  resources:
                    requests:
                      google.com/tpu: $chips_per_host
                    limits:
                      google.com/tpu: $chips_per_host
                  volumeMounts:
                    # Batches pass through it; a container's own has 64 MB.
                    - name: shared-memory
                      mountPath: /dev/shm
              volumes:
                - name: shared-memory
                  emptyDir:
                    medium: Memory
EOF
}

if [ -n "$dry_run" ]; then
  manifest
else
  manifest | kubectl apply -f -
fi
