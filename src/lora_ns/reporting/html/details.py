"""The data that the page unpacks when a run is opened or compared: config, loss curve, completions, provenance.

The completions of 1,000 runs on 1,000 rows would not fit in a page. So each evaluation shows the same rows for every
run, all of them if they fit TEXT_BYTES. The per-example score is stored for every row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.reporting.html.content import history_of
from lora_ns.reporting.html.read import ReadRun

TEXT_BYTES = 24_000_000
"""Budget for the completions of all runs in bytes; compression reduces them to a fifth or a tenth."""
FEWEST_ROWS = 20
LONGEST_PROMPT, LONGEST_ANSWER = 4000, 1500
"""Characters after which a text is cut and marked as cut."""


@dataclass(frozen=True)
class Details:
    """eval_sets: prompts and references by evaluation, shared by all runs; runs: each run's completions, in order."""

    eval_sets: dict[str, dict[str, Any]]
    runs: list[dict[str, Any]]


def details(runs: Sequence[ReadRun], text_bytes: int = TEXT_BYTES) -> Details:
    """Return all runs with the completions that fit.  text_bytes: budget for them, before compression."""
    eval_sets: dict[str, dict[str, Any]] = {}
    share = text_bytes / max(1, sum(len(run.scores) for run in runs))
    kept = [_run(run, eval_sets, share) for run in runs]
    return Details(eval_sets, kept)


def _run(run: ReadRun, eval_sets: dict[str, dict[str, Any]], share: float) -> dict[str, Any]:
    path = run.store.run_file(run.name)
    return {
        "config": path.read_text(encoding="utf-8") if path.is_file() else None,
        "history": [[point["step"], point["loss"]] for point in history_of(run)],
        "exams": [_answered(run, score, eval_sets, share) for score in run.scores],
        "provenance": [_provenance(run, score) for score in run.scores],
    }


def _answered(run: ReadRun, score: dict[str, Any], eval_sets: dict[str, dict[str, Any]], share: float) -> dict[str, Any]:
    """Return one run's score on every row of one evaluation, and its completions of the shown rows."""
    evaluation, examples = score["evaluation"], score["examples"]
    right = examples["scores"].get(score["main_metric"]) or next(iter(examples["scores"].values()), None)
    answered: dict[str, Any] = {"evaluation": evaluation, "right": right, "answers": None}
    path = run.predictions(evaluation)
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path else []
    known = eval_sets.get(evaluation)
    if known is None or (known["shown"] == [] and lines):
        known = eval_sets[evaluation] = _eval_set(run, score, lines, share)
    if len(lines) == len(examples["id"]):
        answered["answers"] = [_answer(json.loads(lines[i])) for i in known["shown"]]
    return answered


def _eval_set(run: ReadRun, score: dict[str, Any], lines: Sequence[str], share: float) -> dict[str, Any]:
    """Return the row ids of an evaluation, and the prompts and references of the shown rows."""
    total = len(lines)
    room = int(share * total / max(1, sum(map(len, lines))))
    count = min(total, max(FEWEST_ROWS, room))
    shown = [i * total // count for i in range(count)] if count else []
    asked = [json.loads(lines[i]) for i in shown]
    settings = run.store.evaluation_file(score["evaluation"])
    return {
        "benchmark": score["benchmark"],
        "kind": score["task_type"],
        "ids": score["examples"]["id"],
        "shown": shown,
        "prompts": [_cut(_prompt(line), LONGEST_PROMPT) for line in asked],
        "references": [_cut(_plain(line.get("reference")), LONGEST_ANSWER) for line in asked],
        "settings": settings.read_text(encoding="utf-8") if settings.is_file() else None,
    }


def _prompt(line: dict[str, Any]) -> str:
    if "texts" in line:
        return "\n".join(map(str, line["texts"]))
    return str(line.get("prompt", ""))


def _answer(line: dict[str, Any]) -> dict[str, str]:
    """Return the model's completion (or its choices or probabilities) as text, and the parsed answer."""
    if "completions" in line:
        texts = line["completions"]
        said = texts[0] if len(texts) == 1 else "\n".join(f"[{i}] {text}" for i, text in enumerate(texts, start=1))
    elif "choices" in line:
        ranked = sorted(zip(line["log_likelihoods"], line["choices"], strict=True), reverse=True)
        said = "\n".join(f"{value:.3f}  {text}" for value, text in ranked)
    elif "probabilities" in line:
        said = "probabilities " + ", ".join(f"{p:.3f}" for p in line["probabilities"])
    elif "log_likelihood" in line:
        said = f"log-likelihood {line['log_likelihood']:.3f} of {line['tokens']} tokens"
    else:
        said = ""
    answer = {"text": _cut(said, LONGEST_ANSWER)}
    parsed = line.get("parsed", line.get("prediction"))
    return {**answer, "parsed": _cut(_plain(parsed), LONGEST_ANSWER)} if parsed is not None else answer


def _plain(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… [{len(text) - longest} more characters]"


def _provenance(run: ReadRun, score: dict[str, Any]) -> dict[str, Any]:
    """Return the origin of a score, and the command that makes it again."""
    evaluation = score["evaluation"]
    made = score.get("circumstances", {})
    trained = score.get("trained", {})
    run_file, request = run.store.run_file(run.name), run.store.evaluation_file(evaluation)
    return {
        "evaluation": evaluation,
        "score file": str(run.store.score(run.name, evaluation)),
        "made again by": f"lora-ns evaluate --config {run_file} --evaluation {request}",
        "evaluated with commit": _commit(score.get("code")),
        "trained with commit": _commit(trained.get("code")),
        "read": score.get("inputs"),
        "packages": trained.get("packages") or score.get("packages"),
        "hardware": made.get("hardware"),
        "finished": made.get("finished"),
        "seconds": made.get("seconds"),
        "cost": score.get("cost"),
        "predictions": score.get("outputs"),
        "warnings": score.get("warnings") or None,
    }


def _commit(code: Any) -> str | None:
    if not code or not code.get("commit"):
        return None
    return f"{code['commit']}{', with uncommitted changes' if code.get('dirty') else ''}"
