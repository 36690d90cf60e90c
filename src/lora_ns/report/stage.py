"""The report.  READS results/{runs,evaluations,scores,tables,tuning}, and results/predictions where they are here
WRITES results/report/<experiment>/index.html
"""

from __future__ import annotations

from pathlib import Path

from lora_ns.experiment import Experiment
from lora_ns.report.content import overview
from lora_ns.report.details import details
from lora_ns.report.page import page
from lora_ns.report.read import read_runs
from lora_ns.store import Store, replace_text


def report(experiment: Experiment, store: Store) -> Path:
    """Writes the page; returns its path.  The experiment's tables must be up to date (`lora_ns.tables.stage`)."""
    runs = read_runs(experiment, store)
    path = store.report(experiment.name) / "index.html"
    replace_text(path, page(overview(experiment, runs, store.tables(experiment.name)), details(runs)))
    return path
