"""Scores: one trained model asked one benchmark.  READS adapter, rows   WRITES results/scores, results/predictions

The predictions file keeps every answer as the model gave it, so that scoring can be done again without the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.benchmarks.sandbox.health import outcome_of, warnings_of
from lora_ns.config import RunConfig
from lora_ns.config.text_files import replace_text
from lora_ns.data.contamination import seen_in_training, warning_of
from lora_ns.errors import EvaluationError, Interrupted
from lora_ns.evaluation.engines.vllm import served_by_vllm
from lora_ns.evaluation.eval_set import EvalSet, read_eval_set
from lora_ns.evaluation.model_pool import BaseModelPool
from lora_ns.evaluation.predict import predict, probe_logits, room_warnings
from lora_ns.evaluation.prediction_cache import cached_predictions
from lora_ns.evaluation.sandbox_report import sandbox_report
from lora_ns.evaluation.score_content import cost_of, score_content, unpinned
from lora_ns.evaluation.scoring import EvalResult, score_predictions
from lora_ns.models.adapter import without_adapter
from lora_ns.models.base_model import best_device, load_base, make_deterministic
from lora_ns.store import record
from lora_ns.store.artifact import read_record
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.failures import record_failure
from lora_ns.store.history import thinned_history
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store
from lora_ns.store.processes import Processes
from lora_ns.store.progress import report_progress
from lora_ns.store.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CANARY_ROWS = 4


def evaluate_runs(
    runs: Sequence[Run],
    evaluation: EvaluationRequest,
    *,
    quiet: bool = False,
    rescore: bool = False,
    bases: BaseModelPool | None = None,
) -> dict[str, Path | Exception]:
    """Evaluate several runs with one evaluation request; returns run name -> score file or exception, in order of the runs.

    Rows and prompts are read once. Each base model is loaded once, and the adapters of its runs are loaded and unloaded in
    turn. Every run's score is what it would be alone. A run that fails does not stop the others. The reason is saved
    (`store.failures.record_failure`).  bases: keeps the last base model for a further call.
    """
    sitting = Evaluator(evaluation, runs[0].store, quiet, rescore, bases)
    found: dict[str, Path | Exception] = {run.name: EvaluationError("not asked") for run in runs}
    for run in sorted(runs, key=lambda run: _base_of(run.config)):
        try:
            with record_failure(run.store, run.name, "evaluate") if Processes.here().is_first else nullcontext():
                found[run.name] = sitting.score(run)
        except Interrupted:
            raise
        except Exception as error:
            found[run.name] = error
    return found


def _base_of(config: RunConfig) -> tuple[str, ...]:
    """Sort key: runs of one base model are adjacent, fully trained models come last."""
    method = config.peft.method
    return (str(method == "full"), config.model.model_dump_json(), config.task_type, str(config.seed))


class Evaluator:
    """Runs one evaluation on several runs."""

    def __init__(
        self, evaluation: EvaluationRequest, store: Store, quiet: bool, rescore: bool, bases: BaseModelPool | None = None
    ):
        self._evaluation = evaluation
        self._store = store
        self._quiet = quiet
        self._rescore = rescore
        self._bases = bases or BaseModelPool(store)
        self._exams: dict[str, EvalSet] = {}

    def score(self, run: Run) -> Path:
        """The score file of a run, made if it is missing."""
        target = run.score(self._evaluation)
        if target.is_file() and not self._rescore:
            return target
        trained = read_record(run.adapter)
        meter = record.Meter()
        eval_set = self._eval_set(run.config)
        overlap = _overlap(eval_set, run)
        isolation = sandbox_report(eval_set, run.store) if Processes.here().is_first else None
        if self._rescore:
            answers, facts, meter.figures["answering"] = cached_predictions(run, eval_set)
        else:
            answers, facts = _asked(run, eval_set, self._bases, meter, self._quiet)
        if Processes.here().is_first:
            with meter.part("judging"):
                outcome = score_predictions(eval_set, answers)
            _write_score(run, eval_set, outcome, trained, isolation, {**facts, "overlap": overlap}, meter)
        return target

    def _eval_set(self, config: RunConfig) -> EvalSet:
        if config.task_type not in self._exams:
            self._exams[config.task_type] = read_eval_set(config, self._evaluation, self._store)
        return self._exams[config.task_type]


def _write_score(
    run: Run,
    eval_set: EvalSet,
    outcome: EvalResult,
    trained: dict[str, Any],
    isolation: dict[str, Any] | None,
    facts: dict[str, Any],
    meter: record.Meter,
) -> None:
    """Write predictions and score file, with everything needed to trace the score."""
    config, store, evaluation = run.config, run.store, eval_set.evaluation
    predictions = run.predictions(evaluation)
    lines = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in outcome.lines)
    replace_text(predictions, "".join(lines))
    content = score_content(config, eval_set, outcome, trained)
    content["trained"]["history"] = thinned_history(run.adapter)
    content |= record.describe(
        "evaluate",
        evaluation.digest,
        {**evaluation.to_dict(), "task_type": config.task_type},
        inputs={"adapter": run.name, "rows": store.rows(evaluation.dataset).name, "asked": _asked_rows(evaluation, store)},
        **facts,
        fewshot={"rows": eval_set.example_numbers, "seed": evaluation.fewshot_seed} if eval_set.examples else None,
        sandbox=isolation and outcome_of(isolation),
        outputs={"predictions": {"sha256": sha256_file(predictions)}},
        warnings=[
            *trained["warnings"],
            *unpinned(config.dataset, evaluation.dataset),
            *([f"{eval_set.without_text} rows without text were left out"] if eval_set.without_text else []),
            *(facts["prompt_warnings"] or []),
            *warning_of(facts["overlap"], evaluation.benchmark),
            *warnings_of(isolation, evaluation.benchmark),
        ],
        meter=meter,
    )
    if isolation is not None:
        content["circumstances"]["sandbox"] = {"versions": isolation["versions"], **isolation["golds"]["seconds"]}
    content["cost"] = cost_of(trained, facts.get("asked") or content["circumstances"], run.adapter)
    replace_text(run.score(evaluation), json.dumps(record.sealed(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _asked_rows(evaluation: EvaluationRequest, store: Store) -> str:
    """Checksum of the evaluated split.  It may be the same in two rows artefacts."""
    return read_record(store.rows(evaluation.dataset))["outputs"][f"{evaluation.split}.parquet"]["sha256"]


def _asked(
    run: Run, eval_set: EvalSet, bases: BaseModelPool, meter: record.Meter, quiet: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Load the model, check that it differs from its base model, and predict.  Returns (answers, facts for the record)."""
    served = None
    if eval_set.evaluation.backend == "vllm" and eval_set.spec.kind == "generation":
        served = served_by_vllm(run)
    with ExitStack() as loaded:
        with meter.part("loading"):
            tokenizer = bases.tokenizer(run.config)
            # vLLM allocates the GPU's memory itself
            device = "cpu" if served is not None and served.why_not is None else best_device()
            model = loaded.enter_context(bases.trained(run, device))
        canary = _canary(model, run, tokenizer, eval_set)
        facts = {"canary": canary, "prompt_warnings": room_warnings(model, tokenizer, eval_set)}
        with meter.part("evaluating"), _progress(run, eval_set, quiet) as advance:
            answers, how = predict(model, tokenizer, eval_set, advance, served)
    meter.figures["answering"] = {**how, **_conditions(model, run.config, how)}
    return answers, facts


def _conditions(model: Any, config: RunConfig, how: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions that change rounding besides engine and batch size.  In float32 they do not change completions."""
    import torch

    on_gpu = model.device.type == "cuda" or (how.get("engine") == "vllm" and torch.cuda.is_available())
    return {
        "dtype": config.model.dtype,
        "quantization": config.model.quantization,
        "device": torch.cuda.get_device_name() if on_gpu else model.device.type,
        "processes": Processes.here().count,
    }


def _canary(model: Any, run: Run, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet) -> dict[str, Any] | None:
    """Return the largest logit difference between trained and base model on a few rows.

    Raises EvaluationError if the logits are equal or not finite. None for method `none`, which is its own base.
    """
    config = run.config
    if config.peft.method == "none":
        return None
    trained = probe_logits(model, tokenizer, eval_set, CANARY_ROWS)
    if config.peft.method == "full":
        make_deterministic(config.seed)  # initialises the same classifier head as before training
        base = load_base(run).to(model.device).eval()
        before = probe_logits(base, tokenizer, eval_set, CANARY_ROWS)
        del base
    else:
        with without_adapter(model):
            before = probe_logits(model, tokenizer, eval_set, CANARY_ROWS)
    difference = float((trained.float() - before.float()).abs().max())
    if not math.isfinite(difference):
        raise EvaluationError(f"the trained model of run {run.name} computes logits that are no numbers.")
    if difference == 0.0:
        raise EvaluationError(
            f"the trained model of run {run.name} computes exactly what its base computes: the adapter was "
            "not loaded, or training changed nothing. It is not scored."
        )
    return {"rows": min(CANARY_ROWS, len(eval_set.rows)), "max_logit_difference_from_base": difference}


def _overlap(eval_set: EvalSet, run: Run) -> dict[str, Any] | None:
    """Contamination: benchmark rows that repeat a training row. None for an untrained model or if the tokens are missing.

    Raises EvaluationError on contamination if dataset.overlap is `fail`, before the model is loaded.
    """
    config = run.config
    if config.peft.method == "none":
        return None
    found = seen_in_training(eval_set.questions, run.tokens, eval_set.ids)
    if found and found["rows"] and config.dataset.overlap == "fail":
        raise EvaluationError(
            f"{found['rows']} rows of {eval_set.spec.name} ask what a training row asked (first: {found['ids'][0]}); "
            "dataset.overlap is `fail`."
        )
    return found


@contextmanager
def _progress(run: Run, eval_set: EvalSet, quiet: bool) -> Iterator[Any]:
    """A progress bar on stderr if it is a terminal, and a progress file for `lora-ns status`."""
    import sys

    from rich.console import Console
    from rich.progress import Progress

    shown, rows, asked = not quiet and sys.stderr.isatty(), len(eval_set.rows), 0

    def advance(done: int) -> None:
        nonlocal asked
        asked += done
        bar.advance(job, done)
        report(asked)

    name = eval_set.evaluation.name
    with (
        Progress(console=Console(stderr=True), disable=not shown) as bar,
        report_progress(run.store, run.name, name, rows) as report,
    ):
        job = bar.add_task(f"{eval_set.spec.name}: {eval_set.spec.kind}", total=rows)
        yield advance
