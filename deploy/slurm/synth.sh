#!/usr/bin/env bash
#SBATCH --job-name=dail-synth
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
# Workers of an API that the nodes reach, each with one GPU; the array says how many. One that is killed with its node
# loses nothing: its units go to others, and it is queued again. They end when the API has had no work for ten minutes.
#
#   DAIL_TOKEN=… sbatch deploy/slurm/synth.sh --api http://HOST:8765 --model MODEL
set -euo pipefail
unset RAY_ADDRESS  # each has a Ray of its own
dail worker --idle-exit 600 "$@" &
worker=$!
# Two minutes before its time is over, and when it is preempted: it hands its units back and is queued again.
trap 'kill -TERM $worker; wait $worker || true; scontrol requeue "$SLURM_JOB_ID"; exit' TERM
wait $worker
