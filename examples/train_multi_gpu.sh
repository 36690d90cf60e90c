#!/usr/bin/env bash
# One configuration on all GPUs of this machine: trained by a process on each, then scored.
#   examples/train_multi_gpu.sh [CONFIG] [section.key=value …]
# DeepSpeed ZeRO-2 by itself; another launch file, another number of processes (2 where there is no GPU):
#   LAUNCH=configs/launch/ddp.yaml PROCESSES=4 examples/train_multi_gpu.sh configs/gsm8k.yaml
# The same run on one process is the same adapter, up to rounding: launching changes nothing of a run's identity.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

config=configs/metamath_qa.yaml
if [[ ${1-} != "" && $1 != *=* ]]; then config=$1; shift; fi
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
processes=${PROCESSES:-$((gpus > 0 ? gpus : 2))}

accelerate launch --config_file "${LAUNCH:-configs/accelerate_config.yaml}" --num_processes "$processes" --main_process_port 0 \
  -m lora_ns train --config "$config" "$@"
lora-ns evaluate --config "$config" "$@"
