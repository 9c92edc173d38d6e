#!/usr/bin/env bash
# Several machines under Slurm: one torchrun per machine, which starts one process per GPU. Options go on to the command:
#     sbatch --nodes=2 --gpus-per-node=8 scripts/slurm.sh --config diffuse data.path=/data/turbulent_radiative_layer_2D
# Two minutes before its time is over, SIGTERM is handed on: all processes save a checkpoint and end, and the job puts
# itself into the queue again. A run that fails is not repeated.
# Not run on a Slurm cluster. What torchrun is passed here is tested with two agents on one machine
# (scripts/distributed.py, "two torchrun agents meet").
#SBATCH --job-name=wan_well
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# a new store after every restart: the shared one keeps addresses of processes that are gone
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# torchrun would kill after 30 seconds what may still be in an update, or saving
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
srun --kill-on-bad-exit=1 torchrun \
     --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-gpu}" --max_restarts=3 \
     --rdzv_backend=c10d --rdzv_endpoint="$head:29500" --rdzv_id="$SLURM_JOB_ID" \
     -m wan_well.train --resume_from auto "$@" &
step=$! stopping=
trap 'stopping=1; kill -TERM "$step"' USR1
wait "$step" && status=0 || status=$?
if [ -n "$stopping" ]; then wait "$step" || true; scontrol requeue "$SLURM_JOB_ID"; else exit "$status"; fi
