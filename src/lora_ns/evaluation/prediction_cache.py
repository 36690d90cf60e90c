"""Stored predictions of an earlier evaluation, to be scored again without the model.

Another way of scoring gives an evaluation another digest; its answers are still those of any evaluation of the same run
that asked the same prompts and decoded alike.
"""

import json
from pathlib import Path
from typing import Any

from lora_ns.data.prompts import texts_of
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.errors import DamagedError, DataError, EvaluationError
from lora_ns.evaluation.eval_set import EvalSet
from lora_ns.evaluation.predict import prompts_as_text
from lora_ns.store.integrity import REMEDY, load_verified_score, score_faults
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

DECODING = ("generation", "split", "num_fewshot", "fewshot_seed", "limit")
"""Settings that determine an evaluation's predictions, besides its rows and prompts."""

ANSWER_KEYS = {
    "generation": ("prompt", "completions"),
    "choice": ("prompt", "choices", "log_likelihoods"),
    "perplexity": ("log_likelihood", "tokens", "bytes"),
    "classification": ("texts", "probabilities"),
    "regression": ("texts", "prediction"),
}
"""Fields of a predictions line that hold the model's output."""


def cached_predictions(run: Run, eval_set: EvalSet) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Return (saved predictions for this eval set, facts for the record, conditions of generation).

    Raises EvaluationError if none fit. Raises DamagedError if the score or predictions were changed since: edited
    predictions would otherwise get a new seal.
    """
    store, evaluation = run.store, eval_set.evaluation
    own = run.predictions(evaluation)
    others = sorted(own.parent.glob("*.jsonl")) if own.parent.is_dir() else []
    asked = _asked_texts(eval_set, run)
    for path in [own, *(other for other in others if other != own)]:
        score = store.score(run.name, path.stem)
        if not path.is_file() or not score.is_file():
            continue
        before = load_verified_score(score)
        if path != own and not _decoded_alike(before, eval_set, store):
            continue
        if found := score_faults(score, path):
            raise DamagedError(f"{score} is damaged: {'; '.join(found)}. {REMEDY}")
        lines = _lines(path)
        if _answers_to(lines, asked, eval_set):
            answers = [{key: line[key] for key in ANSWER_KEYS[eval_set.spec.kind]} for line in lines]
            how = before["circumstances"].get("answering", {})
            return answers, {**_facts(before), "rescored_from": path.stem}, how
    raise EvaluationError(
        f"no kept predictions of run {run.name} answer {evaluation.name}: none ask the same questions with the same decoding. "
        "Evaluate without --rescore."
    )


def _facts(before: dict[str, Any]) -> dict[str, Any]:
    """The record's facts about the predictions, which scoring again does not change."""
    kinds = ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes")
    figures = before.get("asked") or {kind: before["circumstances"].get(kind, {}) for kind in kinds}
    return {key: before.get(key) for key in ("canary", "prompt_warnings")} | {"asked": figures}


def _decoded_alike(before: dict[str, Any], eval_set: EvalSet, store: Store) -> bool:
    then, now = before.get("config", {}), eval_set.evaluation.to_dict()
    if before.get("inputs", {}).get("rows") != store.rows(eval_set.dataset).name or eval_set.spec.kind == "perplexity":
        return False
    if now["generation"]["do_sample"] and (then.get("backend") == "vllm") != (now["backend"] == "vllm"):
        return False  # sampled with other random numbers
    return all(then.get(key) == now[key] for key in DECODING)


def _asked_texts(eval_set: EvalSet, run: Run) -> list[Any]:
    """The prompt of each row as in a predictions line.  None if the lines do not show it."""
    if eval_set.spec.kind in ("classification", "regression"):
        return [texts_of(row, eval_set.dataset) for row in eval_set.rows]
    if eval_set.spec.kind == "perplexity":
        return [None] * len(eval_set.rows)
    tokenizer = load_tokenizer(run.config.model, run.store) if eval_set.dataset.is_chat else None
    return list(prompts_as_text(eval_set, tokenizer))


def _answers_to(lines: list[dict[str, Any]], asked: list[Any], eval_set: EvalSet) -> bool:
    """Whether the lines are predictions for these rows, in order."""
    keys = ANSWER_KEYS[eval_set.spec.kind]
    if [line.get("id") for line in lines] != eval_set.ids or not all(key in line for line in lines for key in keys):
        return False
    if [line.get("prompt", line.get("texts")) for line in lines] != asked:
        return False
    if eval_set.spec.choices is None:
        return True
    choices = [eval_set.spec.choices(row, eval_set.evaluation.settings)[0] for row in eval_set.rows]
    return [line["choices"] for line in lines] == choices


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    with path.open(encoding="utf-8") as file:  # splitlines would also split at characters that a text may contain
        for number, line in enumerate(file, start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not valid JSON: {error}.") from None
    return lines
