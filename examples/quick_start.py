"""From a config to a trained, scored and answering model.

    .venv/bin/python examples/quick_start.py [CONFIG] [section.key=value …]

Without a CONFIG it is configs/template.yaml: a minute on a laptop, after the small base model was made once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lora_ns.config import load_config, parse_overrides
from lora_ns.errors import LoraNsError
from lora_ns.models.imports import prepare_imports
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_adapter, make_score


def main(words: list[str]) -> None:
    """Each step finds what is done already, as the command line and the workflow do."""
    path = Path(words.pop(0) if words and "=" not in words[0] else "configs/template.yaml")
    config = load_config(path, parse_overrides(words))
    run = Run(config, Store())
    prepare_imports(config)

    adapter = make_adapter(run)
    print("adapter:", adapter)

    for entry in config.evaluation.benchmarks:
        score = make_score(run, run.evaluation(entry))
        for metric, value in json.loads(score.read_text())["metrics"].items():
            print(f"{entry.name}: {metric} {value:.3f}")

    print("ask it: lora-ns infer --config", path, *words, '--text "…"')


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LoraNsError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
