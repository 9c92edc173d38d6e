#!/usr/bin/env bash
# Several machines under Slurm: one torchrun per machine, which starts one process per GPU. Options go on to the command:
#     sbatch --nodes=2 --gpus-per-node=8 scripts/slurm.sh --config diffuse data.path=/data/turbulent_radiative_layer_2D
# Two minutes before its time is over, all processes save a checkpoint and end, and the job puts itself into the queue
# again; a job that came to no update by then has nothing to save, and begins anew. One that fails is not put into the
# queue. A new job goes on with no older run: to continue one, pass --resume_from auto.
#
# Not run on a Slurm cluster. It is rehearsed (scripts/distributed.py, "a day on the cluster"): this file is run as it
# is on one machine, with the programs of scripts/rehearsal in place of srun and scontrol, which do what Slurm's do with
# commands and signals. Not rehearsed: machines, GPUs, Slurm's own queue, its limits on memory and CPUs, its network.
#SBATCH --job-name=wan_well
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*} # the first line; `| head -n 1` would end scontrol by SIGPIPE, and with it the job
port=$((20000 + SLURM_JOB_ID % 10000)) # another one for each job: two of them may share a machine
# a new store after every restart: the shared one keeps addresses of processes that are gone
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# torchrun would kill after 30 seconds what may still be in an update, or saving
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
srun --kill-on-bad-exit=1 torchrun \
     --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-gpu}" --max_restarts=3 \
     --rdzv_backend=c10d --rdzv_endpoint="$head:$port" --rdzv_id="$SLURM_JOB_ID" \
     --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
     -m wan_well.train ${SLURM_RESTART_COUNT:+--resume_from auto} "$@" &
step=$! stopping=
# USR1, not TERM: srun hands USR1 on, and answers TERM by killing all processes at once
trap 'stopping=1; kill -USR1 "$step" || true' USR1
wait "$step" && status=0 || status=$?
if [ -n "$stopping" ]; then wait "$step" && status=0 || status=$?; fi
if [ -n "$stopping" ] && [ "$status" != 0 ]; then scontrol requeue "$SLURM_JOB_ID"; else exit "$status"; fi
