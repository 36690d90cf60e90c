"""Footprint predictions by digest: traced once for each model, method and shape, then read from results/scratch.

torch is imported only for tracing, so reading saved predictions is fast.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, TypeVar

from lora_ns.config.text_files import replace_text
from lora_ns.errors import LoraNsError
from lora_ns.models.imports import prepare_imports
from lora_ns.store.digests import digest_of
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.planning.footprint import AnswerFootprint, Footprint, StepFootprint
from lora_ns.workflow.planning.workload import Questions, Shape

PROTOCOL = 4
"""Increase by hand when a code change alters predictions."""
_PACKAGES = ("torch", "transformers", "peft", "trl")
_OF_A_STEP = ("optim", "max_grad_norm", "gradient_checkpointing", "bf16", "fp16")
"""Training arguments that affect a step's memory and kernels."""

Found = TypeVar("Found", bound=Footprint)


class Estimator:
    """Reads saved footprints of training steps and evaluation batches, and traces missing ones."""

    def __init__(self, store: Store, *, trace: bool = True, notice: Callable[[str], None] = lambda what: None):
        """trace: trace missing predictions.  notice: called with the name of what is traced."""
        self.failures: dict[str, str] = {}
        """Model and method -> reason why it cannot be predicted."""
        self._store, self._trace, self._notice = store, trace, notice
        self._versions = {name: version(name) for name in _PACKAGES}
        self._seen: dict[str, Footprint | None] = {}

    def step(self, run: Run, shape: Shape) -> StepFootprint | None:
        """Return the footprint of one training step; None if tracing fails, or if it is missing and tracing is off."""
        arguments = run.config.training.arguments
        asked = {"step": {key: arguments.get(key) for key in _OF_A_STEP}, "shape": asdict(shape)}

        def trace(model: Any) -> StepFootprint:
            from lora_ns.workflow.planning.profile_step import trace_step

            return trace_step(model, run.config, shape)

        return self._found(StepFootprint, run, asked, trace)

    def answer(self, run: Run, questions: Questions) -> AnswerFootprint | None:
        """Return the footprint of one evaluation batch; None as for a step."""
        asked = {"kind": questions.kind, "shape": asdict(questions.shape)}

        def trace(model: Any) -> AnswerFootprint:
            from lora_ns.workflow.planning.profile_step import trace_answer

            return trace_answer(model, run.config, questions.shape, questions.kind)

        return self._found(AnswerFootprint, run, asked, trace)

    def _found(self, kind: type[Found], run: Run, asked: Mapping[str, Any], trace: Callable[[Any], Found]) -> Found | None:
        digest = digest_of({"protocol": PROTOCOL, **self._versions, **_identity(run), **asked})
        if digest not in self._seen:
            found = self._read(kind, digest)
            if found is None and self._trace:
                found = self._traced(run, digest, trace)
            self._seen[digest] = found
        return self._seen[digest]  # type: ignore[return-value]

    def _read(self, kind: type[Found], digest: str) -> Found | None:
        try:
            return kind.read(json.loads(self._store.step_cost_file(digest).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _traced(self, run: Run, digest: str, trace: Callable[[Any], Found]) -> Found | None:
        prepare_imports(run.config)
        what = f"{run.config.method} on {run.config.model.name_or_path}"
        self._notice(what)
        from lora_ns.workflow.planning.architecture import model_without_weights

        try:
            found = trace(model_without_weights(run))
        except LoraNsError as error:
            self.failures[what] = str(error)
            return None
        except Exception as error:  # fake tensors have no values, which some methods read; the plan continues without
            self.failures[what] = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
            return None
        replace_text(self._store.step_cost_file(digest), json.dumps(asdict(found)) + "\n")
        return found


def _identity(run: Run) -> dict[str, Any]:
    """Everything about model and method that sizes and kernels depend on."""
    return {
        "model": run.model_identity,
        **run.config.model.model_dump(exclude={"name_or_path", "revision"}),
        "peft": run.config.peft.model_dump(),
        "task_type": run.config.task_type,
        "labels": len(run.config.dataset.labels or []),
    }
