"""Differences between two runs: settings, data, environment, loss curves, scores.  Only reads stored results."""

import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from lora_ns.config import read_mapping
from lora_ns.provenance.compare_parts import compare_curves, environment_differences, flat, read_history
from lora_ns.reporting.score_file import asked_same_rows
from lora_ns.store.integrity import load_verified, load_verified_score
from lora_ns.store.paths import Store
from lora_ns.store.run import find_run

DATA_INPUTS = ("tokens", "model", "rows")


def compare_runs(first: str, second: str, store: Store) -> dict[str, Any]:
    """Compare two runs, each given by name, unique prefix or the path of one of its files.

    Returns runs; config, data, environment: name -> [first, second] where they differ; curve; scores by benchmark.
    Raises ConfigError for an unknown run, DamagedError if a stored result is damaged.
    """
    runs = [find_run(first, store), find_run(second, store)]
    kept = [_kept(run, store) for run in runs]
    trained = [side["trained"] for side in kept]
    return {
        "runs": runs,
        "config": _differing(*(flat(read_mapping(store.run_file(run))) for run in runs)),
        "data": _differing(*({k: t["inputs"].get(k) for k in DATA_INPUTS if k in t.get("inputs", {})} for t in trained)),
        "environment": environment_differences(*trained) if all(trained) else {},
        "curve": _curve(*(side["history"] for side in kept)),
        "scores": _scores(kept[0]["scores"], kept[1]["scores"], store),
    }


def _kept(run: str, store: Store) -> dict[str, Any]:
    """Return the stored results of a run: its scores, and its adapter's record (from a score file if it is absent)."""
    paths = sorted(store.score(run, "any").parent.glob("*.json"))
    scores = {content["evaluation"]: content for content in map(load_verified_score, paths)}
    folder = store.adapter(run)
    if folder.exists():
        return {"scores": scores, "trained": load_verified(folder), "history": read_history(folder)}
    trained: Mapping[str, Any] = next((score["trained"] for score in scores.values() if "trained" in score), {})
    return {"scores": scores, "trained": trained, "history": trained.get("history") or []}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [a.get(key), b.get(key)] for key in {**a, **b} if a.get(key) != b.get(key)}


def _curve(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return where two loss curves diverge, and their final losses; None unless both are stored."""
    if not a or not b:
        return None
    part = compare_curves(a, b, 0.0)
    return {"state": part.state, "said": part.said, "final_loss": [a[-1]["loss"], b[-1]["loss"]]}


def _scores(a: Mapping[str, Any], b: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Return by benchmark: both runs' metrics, differing evaluation settings, and on how many examples each is better."""
    found: dict[str, Any] = {}
    pairs = _pairs(a, b)
    benchmarks = [(one or other or {})["benchmark"] for one, other in pairs]
    for (one, other), benchmark in zip(pairs, benchmarks, strict=True):
        name = benchmark if benchmarks.count(benchmark) == 1 else (one or other or {})["evaluation"]
        if one is None or other is None:
            found[name] = {"only": "second" if one is None else "first"}
            continue
        found[name] = {
            "metrics": {m: [one["metrics"].get(m), other["metrics"].get(m)] for m in {**one["metrics"], **other["metrics"]}},
            "asked": _differing(_request(one, store), _request(other, store)),
            "examples": _examples(one, other),
        }
    return found


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Pair scores of the same evaluation, then the remaining ones of the same benchmark; None if there is no partner."""
    pairs = [(a[name], b[name]) for name in a if name in b]
    left = {name: content for name, content in a.items() if name not in b}
    right = {name: content for name, content in b.items() if name not in a}
    for benchmark in dict.fromkeys(content["benchmark"] for content in (*left.values(), *right.values())):
        sides = ([c for c in side.values() if c["benchmark"] == benchmark] for side in (left, right))
        pairs += zip_longest(*sides)
    return pairs


def _request(score: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Return the evaluation request of a score with dotted keys; {} if its file is not here."""
    path = store.evaluation_file(score["evaluation"])
    return flat(read_mapping(path)) if path.is_file() else {}


def _examples(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, int] | None:
    """Return on how many shared examples each run is better by the main metric.

    None without per-example scores, or if the rows differ: example ids may be row numbers.
    """
    if not asked_same_rows(a, b):
        return None
    sides = []
    for content in (a, b):
        examples = content.get("examples") or {}
        by_metric = examples.get("scores") or {}
        scores = by_metric.get(content["main_metric"]) or next(iter(by_metric.values()), None)
        if scores is None:
            return None
        sides.append(dict(zip(examples["id"], scores, strict=True)))
    shared = sides[0].keys() & sides[1].keys()
    pairs = [(sides[0][key], sides[1][key]) for key in shared if None not in (sides[0][key], sides[1][key])]
    better = {"first_better": sum(x > y for x, y in pairs), "second_better": sum(x < y for x, y in pairs)}
    return {"shared": len(shared), **better}


def as_text(found: Mapping[str, Any]) -> str:
    """Return the differences as printable lines."""
    first, second = found["runs"]
    lines = [f"first   {first}", f"second  {second}"]
    for title in ("config", "data", "environment"):
        lines.append(f"{title}{'' if found[title] else ': the same'}")
        lines += [f"  {key}: {_short(a)} → {_short(b)}" for key, (a, b) in sorted(found[title].items())]
    curve = found["curve"]
    if curve is None:
        lines.append("loss curve: not kept for both")
    else:
        lines.append(f"loss curve: {'the same over ' if curve['state'] == 'identical' else ''}{curve['said']}")
        lines.append(f"  final loss: {curve['final_loss'][0]:.6g} → {curve['final_loss'][1]:.6g}")
    for name, score in found["scores"].items():
        lines += _score_lines(name, score)
    return "\n".join(lines if found["scores"] else [*lines, "scores: none"])


def _score_lines(name: str, score: Mapping[str, Any]) -> list[str]:
    if "only" in score:
        return [f"{name}: only the {score['only']} run has a score"]
    lines = [f"{name}:"]
    for metric, (a, b) in score["metrics"].items():
        gap = f"  ({b - a:+.4f})" if a is not None and b is not None else ""
        lines.append(f"  {metric}: {_short(a)} → {_short(b)}{gap}")
    if examples := score["examples"]:
        lines.append(
            f"  of {examples['shared']} examples the first does better on {examples['first_better']}, "
            f"the second on {examples['second_better']}"
        )
    return lines + [f"  asked with {key}: {_short(a)} → {_short(b)}" for key, (a, b) in sorted(score["asked"].items())]


def _short(value: Any, most: int = 100) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\n", "⏎")
    return text if len(text) <= most else text[: most - 1] + "…"
