#!/bin/bash
# A run on a TPU slice in GKE, through XPK (https://github.com/AI-Hypercomputer/xpk):
#
#   CLUSTER=my-cluster BUCKET=gs://my-bucket ./xpk.sh my-voice v5litepod-16
#
# Data (what preprocess wrote) and run lie in the bucket. The workload is started again where it
# fails or is preempted, and goes on from its last checkpoint.
set -euo pipefail

name=${1:?name of the workload}
slice=${2:?type of the slice, such as v5litepod-16}

xpk workload create \
    --cluster "${CLUSTER:?}" \
    --workload "$name" \
    --tpu-type "$slice" \
    --num-slices 1 \
    --max-restarts 100 \
    --base-docker-image "${IMAGE:-python:3.12}" \
    --command "pip install 'vits_jax[tpu,gcs]' && \
        python -m vits_jax.train --quality medium --batch-size ${BATCH_SIZE:-128} \
        --dataset-dir ${BUCKET:?}/data --run-dir $BUCKET/runs/$name"
