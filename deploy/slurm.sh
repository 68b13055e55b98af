#!/bin/bash
# Evaluate a million images as an array of 64 tasks, then join the shards:
#   job=$(sbatch --parsable deploy/slurm.sh)
#   sbatch --dependency=afterok:$job --wrap "advreg merge parts --out runs/model"
# A task that is preempted is put back into the queue, and continues behind the last batch that its ledger holds.
#SBATCH --job-name=advreg
#SBATCH --array=0-63
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=24:00:00
#SBATCH --requeue

advreg evaluate runs/model --protocol strong -n 1000000 --out parts --shard "$SLURM_ARRAY_TASK_ID/64"
