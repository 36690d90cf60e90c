"""The paper's figures, from score files: vector PDF and PNG, readable in grey."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_ns.reporting.figures.curves import learning_curves
from lora_ns.reporting.figures.learning_rate import learning_rate
from lora_ns.reporting.figures.pareto import pareto
from lora_ns.reporting.figures.reliability import reliability
from lora_ns.reporting.figures.seeds import seeds
from lora_ns.reporting.figures.style import save, styled
from lora_ns.reporting.results import Results, collect
from lora_ns.reporting.tables.cost import costs
from lora_ns.reporting.tables.summary import summarise


def make_figures(
    experiment: Mapping[str, Any],
    score_paths: Sequence[Path],
    missing: Sequence[Mapping[str, Any]],
    out: Path,
    tuning: Sequence[Mapping[str, Any]] = (),
) -> list[Path]:
    """Draw the figures into `out` (`results/figures/<experiment>`) and return the files.

    The arguments are those of `make_tables`.  A figure without data is not drawn, and an old file with its name is
    deleted.  Raises DataError if a score file cannot be used.
    """
    return draw_figures(collect(experiment, score_paths, missing, root=out.resolve().parents[2]), out, tuning)


def draw_figures(results: Results, out: Path, tuning: Sequence[Mapping[str, Any]] = (), made_by: str = "") -> list[Path]:
    """Draw the figures of collected results and return the files; made_by: a provenance line for their metadata."""
    summary = summarise(results)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    with styled():
        drawings = {
            "pareto": pareto(results, summary, costs(results)),
            "seeds": seeds(results, summary),
            "learning_curves": learning_curves(results),
            "learning_rate": learning_rate(results, tuning),
            "calibration": reliability(results),
        }
        for name, figure in drawings.items():
            if figure is not None:
                files += save(figure, out, name, made_by)
            else:
                for ending in ("pdf", "png"):
                    (out / f"{name}.{ending}").unlink(missing_ok=True)
    return files
