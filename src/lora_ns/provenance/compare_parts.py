"""Comparison of two results: weights, loss curves, predictions, scores, environments; size and place of the difference.

A part is `identical`, `within` the tolerance, `different`, or `unknown` if one side is not here.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

STATES = ("identical", "within", "unknown", "different")
"""From best to worst."""

WORDS = ("prompt", "completions", "texts", "choices")
"""Text fields of a prediction line: prompt and completion, as opposed to its scores."""


@dataclass(frozen=True)
class Part:
    """One thing that was compared."""

    name: str
    state: str
    said: str
    """What was compared, the size of the difference and its first place."""

    def to_dict(self) -> dict[str, str]:
        """Return the values for --json."""
        return {"name": self.name, "state": self.state, "said": self.said}


def worst(parts: Sequence[Part]) -> str:
    """Return the worst state of the parts, `unknown` if there are none."""
    return max((part.state for part in parts), key=STATES.index, default="unknown")


def compare_weights(
    stated: Mapping[str, Mapping[str, Any]], made: Mapping[str, Mapping[str, Any]], old: Path | None, new: Path, tolerance: float
) -> Part:
    """Compare safetensors files by checksum, then tensor by tensor if the checksums differ.

    stated, made: file -> {sha256, bytes} of the recorded and the rerun adapter.  old: the original's folder, if it is here.
    """
    names = sorted(name for name in {*stated, *made} if name.endswith(".safetensors"))
    if not names:
        return Part("adapter", "identical", "no weights: the base model as it is")
    differing = [name for name in names if stated.get(name, {}).get("sha256") != made.get(name, {}).get("sha256")]
    if not differing:
        return Part("adapter", "identical", ", ".join(f"{name} {made[name]['sha256'][:12]}…" for name in names))
    name = differing[0]
    if name not in stated or name not in made:
        return Part("adapter", "different", f"{name} is {'new' if name in made else 'not made'}")
    if old is None:
        return Part("adapter", "unknown", f"{name} has another checksum; the old one is not here to say how far it is")
    return _compare_tensors(old / name, new / name, tolerance)


def _compare_tensors(old: Path, new: Path, tolerance: float) -> Part:
    from safetensors import safe_open

    first, greatest, scale, count = "", 0.0, 0.0, 0
    with safe_open(str(old), "pt") as a, safe_open(str(new), "pt") as b:
        if set(a.keys()) != set(b.keys()):
            odd = sorted(set(a.keys()) ^ set(b.keys()))[0]
            return Part("adapter", "different", f"{old.name}: the tensor {odd} is in one of them only")
        for key in sorted(a.keys()):
            x, y = a.get_tensor(key).double(), b.get_tensor(key).double()
            if x.shape != y.shape:
                return Part("adapter", "different", f"{key}: shape {list(x.shape)} → {list(y.shape)}")
            scale = max(scale, float(x.abs().max()) if x.numel() else 0.0)
            gap = float((x - y).abs().max()) if x.numel() else 0.0
            if gap > 0:
                first, count, greatest = first or key, count + 1, max(greatest, gap)
    if greatest == 0.0:
        return Part("adapter", "identical", f"{old.name}: every tensor equal (its header differs)")
    state = "within" if greatest <= tolerance * scale else "different"
    return Part(
        "adapter",
        state,
        f"{count} tensors differ, by at most {greatest:.3g} where the greatest weight is {scale:.3g}; first {first}",
    )


def compare_curves(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], tolerance: float) -> Part:
    """Compare the losses of two runs step by step."""
    a, b = ([(line["step"], float(line["loss"])) for line in history] for history in (old, new))
    if a == b:
        return Part("loss curve", "identical", f"{len(a)} steps")
    if [step for step, _ in a] != [step for step, _ in b]:
        return Part("loss curve", "different", f"{len(a)} logged steps → {len(b)}")
    gaps = [(abs(x - y) if math.isfinite(x) and math.isfinite(y) else math.inf) for (_, x), (_, y) in zip(a, b, strict=True)]
    at = next(i for i, gap in enumerate(gaps) if gap > 0)
    within = all(gap <= tolerance * max(1.0, abs(x)) for gap, (_, x) in zip(gaps, a, strict=True))
    said = (
        f"step {a[at][0]} is the first to differ: {a[at][1]:.6g} → {b[at][1]:.6g}; "
        f"at most {max(gaps):.3g} apart over {len(a)} steps"
    )
    return Part("loss curve", "within" if within else "different", said)


def compare_predictions(old: Path | None, new: Path, stated_sha256: str, made_sha256: str, tolerance: float) -> Part:
    """Compare two predictions files line by line; the part names the first example that differs and its field."""
    if stated_sha256 == made_sha256:
        return Part("predictions", "identical", f"{sum(1 for _ in _lines(new))} examples, {made_sha256[:12]}…")
    if old is None:
        return Part("predictions", "unknown", "another checksum; the old ones are not here to say how far they are")
    total, worded, judged, first = 0, 0, 0, ""
    for a, b in zip_longest(_lines(old), _lines(new)):
        total += 1
        if a == b:
            continue
        key = "example" if a is None or b is None else next(k for k in {**a, **b} if a.get(k) != b.get(k))
        first = first or f"example {(a or b or {}).get('id')}: {key} {_short((a or {}).get(key))} → {_short((b or {}).get(key))}"
        worded += 1
        judged += a is None or b is None or any(_apart(a.get(k), b.get(k)) > tolerance for k in {**a, **b} if k not in WORDS)
    if not worded:
        return Part("predictions", "identical", f"{total} examples (their layout differs)")
    said = f"{worded} of {total} examples differ, {judged} of them in what they came to; first {first}"
    return Part("predictions", "different" if judged else "within", said)


def compare_scores(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Part:
    """Compare the metrics of two score files."""
    a, b = old["metrics"], new["metrics"]
    gaps = {name: _apart(a.get(name), b.get(name)) for name in {**a, **b}}
    if all(gap == 0 for gap in gaps.values()):
        return Part("score", "identical", ", ".join(f"{name} {_short(value)}" for name, value in b.items()))
    name = next(name for name, gap in gaps.items() if gap > 0)
    state = "within" if all(gap <= tolerance for gap in gaps.values()) else "different"
    return Part("score", state, f"{name} {_short(a.get(name))} → {_short(b.get(name))}; at most {max(gaps.values()):.3g} apart")


def environment_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return name -> [then, now] for code, package versions and hardware that differ.  old, new: records, or parts of them."""
    flat = [dict(_flat_environment(side)) for side in (old, new)]
    return {
        name: [flat[0].get(name), flat[1].get(name)] for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)
    }


def _flat_environment(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    code, around = content.get("code") or {}, content.get("circumstances") or {}
    yield from ((f"code.{key}", code.get(key)) for key in ("commit", "dirty", "lock_sha256"))
    yield from (content.get("packages") or {}).items()
    hardware = around.get("hardware") or {}
    yield from ((f"hardware.{key}", hardware.get(key)) for key in ("system", "cpu", "threads", "gpus", "cuda"))
    yield "processes", around.get("processes")


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested keys to dotted ones: {"training": {"lr": 1}} -> {"training.lr": 1}; lists stay whole."""
    if not isinstance(content, Mapping) or not content:
        return {prefix: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def read_history(adapter: Path) -> list[dict[str, Any]]:
    """Return the logged optimiser steps of an adapter, [] if nothing was trained."""
    path = adapter / "history.jsonl"
    return list(_lines(path)) if path.is_file() else []


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _apart(a: Any, b: Any) -> float:
    """Return the greatest difference between two values of the same shape, infinity if they are not comparable."""
    if a == b:
        return 0.0
    if isinstance(a, bool) or isinstance(b, bool):
        return math.inf
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b)
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return max(_apart(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(_apart(x, y) for x, y in zip(a, b, strict=True))
    return math.inf


def _short(value: Any, most: int = 60) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 1] + "…"
