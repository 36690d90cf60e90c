#!/usr/bin/env bash
# One GLUE task: trained, then scored.
#   examples/train_glue.sh [mrpc|cola|sst2|stsb|qqp|mnli|qnli|rte|wnli] [section.key=value …]
# A local copy of the data: dataset.name=../GLUE/MRPC
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

task=mrpc
if [[ ${1-} != "" && $1 != *=* ]]; then task=$1; shift; fi

lora-ns train --config "configs/glue_$task.yaml" "$@"
lora-ns evaluate --config "configs/glue_$task.yaml" "$@"
