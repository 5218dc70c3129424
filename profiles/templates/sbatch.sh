#!/bin/sh
# Measures every host of an allocation at once: collectives across them, each host's rig, one verdict for the fleet.
#   rigbench profiles --template sbatch > rigbench.sbatch
#   sbatch --nodes 4 --gpus-per-node 8 rigbench.sbatch
#SBATCH --job-name=rigbench
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=00:30:00
#SBATCH --output=rigbench-%j.txt
set -eu
RIGBENCH_HOME="${RIGBENCH_HOME:-$SLURM_SUBMIT_DIR/rigbench}"
export RIGBENCH_HOME
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# torchrun starts a rank for each GPU of a host, one where there are none; srun starts torchrun once on each host.
exec srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:${MASTER_PORT:-29400}" \
  -m rigbench run --quick --label "job-$SLURM_JOB_ID"
