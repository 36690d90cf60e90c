"""Run all preflight checks on configs. Shared data sets and models are checked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lora_ns.config import DatasetConfig, RunConfig
from lora_ns.errors import InputError
from lora_ns.store.model_files import folder_here
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.preflight.base import Shell, check_base_model
from lora_ns.workflow.preflight.finding import Finding
from lora_ns.workflow.preflight.fitting import check_benchmark_rows, check_task_rows
from lora_ns.workflow.preflight.length import check_lengths
from lora_ns.workflow.preflight.rows import Sample, look_at


def look_ahead(configs: Sequence[RunConfig], store: Store) -> list[Finding]:
    """Return the findings of all checks, each once, from what is on this disk."""
    samples = _Samples(store)
    found = [finding for group in _grouped(configs, _task) for finding in _of_group(group, samples, store)]
    return list(dict.fromkeys(found))


def _of_group(configs: Sequence[RunConfig], samples: _Samples, store: Store) -> Iterator[Finding]:
    """Check configs of one task and base model, which differ only in method and training."""
    config = next((config for config in configs if config.peft.method != "none"), configs[0])
    sample = samples.of(config.dataset)
    if isinstance(sample, Finding):
        yield sample
        return
    if sample is not None:
        yield from check_task_rows(config, sample)
    for entry in config.evaluation.benchmarks:
        evaluation = Run(config, store).evaluation(entry)
        asked = samples.of(evaluation.dataset)
        if isinstance(asked, Finding):
            yield Finding(f"evaluation.benchmarks: {entry.name}: {asked.text}")
        elif asked is not None:
            yield from check_benchmark_rows(config, evaluation, asked)
    place = folder_here(config.model, store)
    if place is None:
        return
    found, longest = check_lengths(config, store, place, sample)
    yield from found
    shell = Shell(config, place)
    for group in _grouped(configs, lambda one: one.peft.model_dump()):
        yield from check_base_model(group[0], shell, longest)


class _Samples:
    """Reads a sample of each data set once."""

    def __init__(self, store: Store):
        self._store = store
        self._taken: dict[str, Sample | Finding | None] = {}

    def of(self, dataset: DatasetConfig) -> Sample | Finding | None:
        """Return the sample, a finding if it cannot be read, or None if it is not on this disk."""
        key = _key(dataset.model_dump())
        if key not in self._taken:
            try:
                self._taken[key] = look_at(dataset, self._store)
            except InputError as error:
                self._taken[key] = Finding(str(error))
        return self._taken[key]


def _task(config: RunConfig) -> Any:
    """Config fields that runs of one task and base model share."""
    return config.model_dump(include={"task_type", "dataset", "model", "evaluation"})


def _grouped(configs: Sequence[RunConfig], by: Callable[[RunConfig], Any]) -> list[list[RunConfig]]:
    groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(_key(by(config)), []).append(config)
    return list(groups.values())


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
