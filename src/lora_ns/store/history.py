"""A training's loss history, short enough to be stored in git with the scores."""

import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean

POINTS = 100
"""Number of windows that a long history is averaged over."""


def thinned_history(adapter: Path) -> list[dict[str, float]]:
    """Return [{step, loss}] of the adapter's history.jsonl, averaged over POINTS windows if it has more steps.  Empty if
    there is no history, as for an untrained model."""
    path = adapter / "history.jsonl"
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    points = [(line["step"], line["loss"]) for line in lines]
    edges = [round(i * len(points) / POINTS) for i in range(POINTS + 1)]
    windows = [points[a:b] for a, b in pairwise(edges) if a < b]
    return [{"step": round(fmean(s for s, _ in w), 1), "loss": round(fmean(loss for _, loss in w), 6)} for w in windows]
