"""The stage that writes the HTML report.

READS   results/{runs,evaluations,scores,tables,tuning}; results/predictions if they are here
WRITES  results/report/<experiment>/index.html
"""

from pathlib import Path

from lora_ns.config.text_files import replace_text
from lora_ns.experiment.study import Study
from lora_ns.reporting.html.content import overview
from lora_ns.reporting.html.details import details
from lora_ns.reporting.html.page import page
from lora_ns.reporting.html.read import read_runs
from lora_ns.store.paths import Store


def report(experiment: Study, store: Store) -> Path:
    """Write the page and return its path.  The experiment's tables must be up to date (`lora_ns.reporting.make_tables`)."""
    runs = read_runs(experiment, store)
    path = store.report(experiment.name) / "index.html"
    replace_text(path, page(overview(experiment, runs, store.tables(experiment.name)), details(runs)))
    return path
