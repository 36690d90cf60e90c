#!/usr/bin/env bash
# A trained model asked: one question, or a file of them.  Its adapter is found by the config that it was trained with.
#   examples/run_inference.sh CONFIG "a question" [section.key=value …]
#   examples/run_inference.sh CONFIG questions.jsonl answers.jsonl [section.key=value …]
# Another adapter than the config's own, or the base model: lora-ns infer --help
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

[ $# -ge 2 ] || { sed -n 's/^#   /usage: /p' "$0" >&2; exit 2; }
config=$1 asked=$2
shift 2
if [ -f "$asked" ]; then
  [ $# -ge 1 ] || { echo "a file of questions needs a file for the answers" >&2; exit 2; }
  answers=$1
  shift
  lora-ns infer --config "$config" --input-file "$asked" --output-file "$answers" "$@"
else
  lora-ns infer --config "$config" --text "$asked" "$@"
fi
