#!/usr/bin/env bash
#SBATCH --job-name=dail-eval
#SBATCH --nodes=1
#SBATCH --gpus=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=128G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
# An engine on each GPU. A requeued job goes on with every completion that had ended.
#
#   sbatch deploy/slurm/eval.sh --model MODEL --adapter RUN/adapter --problems PROBLEMS.jsonl --out RUN/eval
set -euo pipefail
unset RAY_ADDRESS  # it has a Ray of its own
dail eval "$@" &
judge=$!
# Two minutes before its time is over, and when it is preempted: it is queued again.
trap 'kill -TERM $judge; wait $judge || true; scontrol requeue "$SLURM_JOB_ID"; exit' TERM
wait $judge
