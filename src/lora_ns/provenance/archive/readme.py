"""The README of an archive: its content, its layout and how to use it."""

from collections.abc import Mapping
from typing import Any

from lora_ns.experiment.study import Study


def readme(experiment: Study, about: Mapping[str, Any]) -> str:
    """Return the README as Markdown.  about: the facts collected in write.py."""
    authors = f"\nAuthors: {', '.join(about['authors'])}.\n" if about["authors"] else ""
    machine = ", ".join([*about["hardware"], *about["gpus"]])
    seeds = ", ".join(map(str, experiment.seeds))
    return f"""# {experiment.title}
{authors}
{experiment.caption or "Fine-tuning methods compared."} {len(experiment.methods)} methods on {len(experiment.tasks)} tasks, \
seeds {seeds}: {about["num_scores"]} scores, made with lora-ns {about["version"]} \
(commit {", ".join(about["commits"])}) on {machine}.

| path | what |
|---|---|
| `{about["experiment_file"]}`, `configs/` | the experiment, its tasks and methods, as they were written |
| `results/runs/`, `results/evaluations/` | every configuration and every benchmark request, resolved to the last setting |
| `results/scores/` | one file a run and benchmark: metrics, every example's score, loss curve, cost, provenance |
| `results/tables/{experiment.name}/`, `results/figures/{experiment.name}/` | the paper's tables and figures |
| `records/` | records of adapters, data and base models: inputs, checksums, versions, machine; cards of merged models |
| `src/`, `workflow/`, `Snakefile` | the code that made it |
| `environment.yml`, `requirements.lock`, `pyproject.toml` | the environment |
| `SHA256SUMS` | checksums of every file: `sha256sum --check SHA256SUMS` |

Weights and data are not in this folder: their checksums are, and everything is made again from here.

```bash
make setup                                                  # the environment, exactly
.venv/bin/lora-ns tables {about["experiment_file"]}         # the tables again, byte for byte, without a GPU
.venv/bin/lora-ns trace results/tables/{experiment.name}/main.md:METHOD,METRIC  # where a number came from
.venv/bin/lora-ns verify {about["experiment_file"]} --sample 1   # one run made again, and compared
```

{_licence(about)}
"""


def _licence(about: Mapping[str, Any]) -> str:
    return f"Licence: {about['licence']}." if about["licence"] else "No licence was stated: ask the authors before reuse."
