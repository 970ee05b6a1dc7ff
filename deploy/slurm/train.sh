#!/usr/bin/env bash
#SBATCH --job-name=dail-train
#SBATCH --nodes=1
#SBATCH --gpus=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
# The paper's setting: 4 GPUs of one machine, batches of 4, a trace on each. A requeued job goes on from its checkpoint.
#
#   sbatch deploy/slurm/train.sh --model MODEL --manifest MANIFEST --out RUN --config qwen2.5-7b-paper-v1
set -euo pipefail
dail=$(command -v dail)
"$(dirname "$dail")/torchrun" --standalone --nproc-per-node "${SLURM_GPUS_ON_NODE:-4}" --max-restarts 3 "$dail" train "$@" &
trainer=$!
# Two minutes before its time is over, and when it is preempted: it is queued again.
trap 'kill -TERM $trainer; wait $trainer || true; scontrol requeue "$SLURM_JOB_ID"; exit' TERM
wait $trainer
