"""The targets of `verify`: runs, scores and table cells to rerun and compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_ns.config import read_mapping
from lora_ns.errors import ConfigError
from lora_ns.experiment.study import load_experiment
from lora_ns.provenance.cell_address import TableCell, find_cell, split_address
from lora_ns.provenance.trace import behind_cell
from lora_ns.provenance.verify.cell import compare_cell
from lora_ns.provenance.verify.run import Verified, scratch_beside, verify
from lora_ns.store.paths import Store
from lora_ns.store.run import find_run


@dataclass(frozen=True)
class Requests:
    """runs: run -> names of the evaluations to rerun; cells: table cells to rebuild from their scores."""

    runs: dict[str, list[str]] = field(default_factory=dict)
    cells: list[TableCell] = field(default_factory=list)

    def add(self, run: str, evaluations: Sequence[str]) -> None:
        known = self.runs.setdefault(run, [])
        known += [name for name in evaluations if name not in known]

    def only(self, runs: Sequence[str]) -> Requests:
        """Return requests for these runs only, without cells: a cell may depend on other runs too."""
        return Requests({run: self.runs[run] for run in runs})


def requests_of(targets: Sequence[str], store: Store) -> Requests:
    """Return the runs, scores and cells that the targets name.  Raises ConfigError for a target that names none."""
    requests = Requests()
    for target in targets:
        _add(requests, target, store)
    return requests


def _add(requests: Requests, target: str, store: Store) -> None:
    path, words = split_address(target)
    if words:
        cell = find_cell(path, words)
        requests.cells.append(cell)
        for score in behind_cell(cell, store):
            requests.add(score.parent.name, [score.stem])
    elif path.suffix == ".yaml" and path.is_file() and "tasks" in read_mapping(path):
        _add_experiment(requests, path, store)
    elif path.suffix == ".json" and path.parent.parent.name == "scores":
        requests.add(path.parent.name, [path.stem])
    else:
        run = find_run(target, store)
        requests.add(run, scores_of(run, store))


def _add_experiment(requests: Requests, path: Path, store: Store) -> None:
    """Add every run of the experiment that has an adapter or a score."""
    for run in load_experiment(path, store).runs:
        done = [score.stem for score in run.scores if score.is_file()]
        if done or store.adapter(run.name).exists():
            requests.add(run.name, done)
    if not requests.runs:
        raise ConfigError(f"{path}: none of its runs has been made yet; there is nothing to compare with.")


def scores_of(run: str, store: Store) -> list[str]:
    """Return the names of the evaluations for which a run has a score."""
    return sorted(path.stem for path in store.score(run, "any").parent.glob("*.json"))


def verify_all(
    requests: Requests, store: Store, *, tolerance: float, from_scratch: bool = False, keep: bool = False
) -> Iterator[Verified]:
    """Rerun and compare each run, then rebuild and compare each cell."""
    with scratch_beside(store, from_scratch=from_scratch, keep=keep) as scratch:
        states = {}
        for run, evaluations in requests.runs.items():
            verified = verify(run, store, scratch, evaluations=evaluations, tolerance=tolerance)
            states[run] = verified.state
            yield verified
        for cell in requests.cells:
            damaged = any(states[score.parent.name] == "damaged" for score in behind_cell(cell, store))
            yield compare_cell(cell, store, scratch, damaged=damaged)
