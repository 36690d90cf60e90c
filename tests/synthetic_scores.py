"""Score files drawn from a known model, for the tests of the tables: fixture data, no results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_scores(root: Path, scores: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Each score to results/scores/<run>/<benchmark>-<digest>.json below root."""
    paths = []
    for score in scores:
        digest = f"{abs(hash_of(score)):010x}"[:10]
        path = root / "results" / "scores" / score["run"].replace("/", "-") / f"{score['benchmark']}-{digest}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(score), encoding="utf-8")
        paths.append(path)
    return paths


def hash_of(score: Mapping[str, Any]) -> int:
    return sum(ord(c) * (i + 1) for i, c in enumerate(score["run"] + score["benchmark"] + score["evaluation"]))


def generation_score(
    task: str = "word_problems",
    method: str = "lora",
    seed: int = 0,
    accuracy: float = 0.6,
    num_examples: int = 200,
    seed_sd: float = 0.02,
    **changes: Any,
) -> dict[str, Any]:
    """A benchmark whose metrics are means of 0/1 scores; the examples' difficulty is shared by all methods."""
    difficulty = np.random.default_rng(1).random(num_examples)
    rng = np.random.default_rng([seed, sum(map(ord, method + task))])
    level = accuracy + rng.normal(0, seed_sd)
    noise = np.clip(difficulty + rng.normal(0, 0.15, num_examples), 0, 1)
    flexible = (noise < level).astype(int)
    strict = flexible * (rng.random(num_examples) < 0.95)
    metrics = {"gsm8k_flexible": flexible, "gsm8k_strict": strict.astype(int)}
    return _score(task, method, seed, "gsm8k", "causal_lm", metrics, {}, num_examples) | changes


def classification_score(
    task: str = "paraphrase", method: str = "lora", seed: int = 0, accuracy: float = 0.8, num_examples: int = 150, **changes: Any
) -> dict[str, Any]:
    """Two classes with probabilities; accuracy is a mean over examples, F1 of class 1 is not."""
    rng = np.random.default_rng([seed, sum(map(ord, method + task))])
    reference = (np.random.default_rng(2).random(num_examples) < 0.6).astype(int)
    right = rng.random(num_examples) < accuracy
    prediction = np.where(right, reference, 1 - reference)
    confidence = rng.uniform(0.5, 1.0, num_examples)
    probabilities = np.where(prediction == 1, confidence, 1 - confidence)
    true_positive = int(((prediction == 1) & (reference == 1)).sum())
    f1 = 2 * true_positive / (int(prediction.sum()) + int(reference.sum()))
    labels = {
        "prediction": prediction.tolist(),
        "reference": reference.tolist(),
        "probabilities": np.stack([1 - probabilities, probabilities], axis=1).round(6).tolist(),
    }
    metrics = {"mrpc_accuracy": (prediction == reference).astype(int)}
    score = _score(task, method, seed, "mrpc", "classification", metrics, labels, num_examples)
    score["metrics"]["mrpc_f1"] = f1
    return score | changes


def general_score(method: str, seed: int, loss: float, evaluation: str = "perplexity-77aa", **changes: Any) -> dict[str, Any]:
    """General text, by which forgetting is measured: a loss, and nothing of single examples."""
    score = generation_score(method=method, seed=seed, **changes)
    metrics = {"perplexity": float(np.exp(loss)), "loss": loss, "bits_per_byte": loss / 2}
    asked = {"benchmark": "perplexity", "evaluation": evaluation, "main_metric": "perplexity"}
    return {**score, **asked, "metrics": metrics, "examples": {}}


def _score(
    task: str,
    method: str,
    seed: int,
    benchmark: str,
    task_type: str,
    metrics: Mapping[str, np.ndarray],
    labels: Mapping[str, Any],
    num_examples: int,
) -> dict[str, Any]:
    trained = 0 if method == "none" else 1
    return {
        "schema": 1,
        "stage": "evaluate",
        "task": task,
        "task_type": task_type,
        "model": "builtin:tiny-llama",
        "method": method,
        "seed": seed,
        "run": f"{task}-tiny-llama-{method}-s{seed}-ab12cd34ef",
        "benchmark": benchmark,
        "evaluation": f"{benchmark}-0f3a",
        "main_metric": next(iter(metrics)),
        "metrics": {name: float(np.mean(values)) for name, values in metrics.items()},
        "num_examples": num_examples,
        "examples": {
            "id": [str(i) for i in range(num_examples)],
            "scores": {name: [int(v) for v in values] for name, values in metrics.items()},
            **labels,
        },
        "cost": {
            "trainable_parameters": 12345 * trained,
            "total_parameters": 1_234_567,
            "adapter_bytes": 51_200 * trained,
            "train_seconds": 12.3 + seed if trained else None,
            "train_tokens": 45_678 if trained else None,
            "train_peak_memory_bytes": 123_456_789 if trained else None,
            "evaluate_seconds": 3.25,
            "evaluate_peak_memory_bytes": 98_765_432,
        },
        "warnings": [],
        "code": {"commit": "0123456789abcdef", "dirty": False},
        "unsafe_sandbox": False,
    }


def history(method: str, seed: int, steps: int = 200) -> list[dict[str, float]]:
    """A training loss that falls, faster for some methods, and trembles."""
    rng = np.random.default_rng([seed, sum(map(ord, method))])
    speed = 10 + sum(map(ord, method)) % 60
    return [
        {"step": step, "loss": 0.5 + 2.5 * float(np.exp(-step / speed)) + float(rng.normal(0, 0.08)), "learning_rate": 1e-4}
        for step in range(1, steps + 1)
    ]


def search(methods: Sequence[str], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """A search over four learning rates; the best of each method is chosen."""
    trials = []
    for task in tasks:
        for place, method in enumerate(methods):
            rates = (5e-5, 1e-4, 2e-4, 5e-4)
            values = [0.6 - 0.08 * abs(np.log2(rate / 1e-4) - place + 1) for rate in rates]
            for rate, value in zip(rates, values, strict=True):
                setting = {"training.learning_rate": rate}
                trial = {"task": task, "method": method, "setting": setting, "metric": "accuracy"}
                trials.append(trial | {"value": value, "chosen": value == max(values)})
    return trials


def demo_scores(seeds: Sequence[int] = (0, 1, 2), tasks: Sequence[str] = ("word_problems", "paraphrase", "functions")):
    """Five methods whose true accuracies differ, on three tasks."""
    accuracies = {"none": 0.2, "prompt_tuning": 0.45, "prefix_tuning": 0.58, "lora": 0.6, "full": 0.72}
    scores = []
    for task in tasks:
        for method, accuracy in accuracies.items():
            for seed in seeds:
                make = classification_score if task == "paraphrase" else generation_score
                scores.append(make(task, method, seed if method != "none" else 0, accuracy) | {"seed": seed})
    for score in scores:
        score["run"] = f"{score['task']}-tiny-llama-{score['method']}-s{score['seed']}-ab12cd34ef"
    return scores
