#!/usr/bin/env bash
# MetaMathQA: trained on 40,000 of its rows, asked GSM8K and MATH-500, merged into one model to hand on.
#   examples/train_metamath.sh [section.key=value …]
# All 395,000 rows: dataset.max_samples=null.  Less memory: model.quantization=4bit training.gradient_checkpointing=true
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

settings=(dataset.max_samples=40000 "$@")
lora-ns train --config configs/metamath_qa.yaml "${settings[@]}"
lora-ns evaluate --config configs/metamath_qa.yaml "${settings[@]}"
lora-ns merge --config configs/metamath_qa.yaml "${settings[@]}"
