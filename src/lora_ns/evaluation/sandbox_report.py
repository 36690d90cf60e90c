"""Check the sandbox's isolation and speed on this machine, once, before the first score.

READS nothing   WRITES results/scratch/sandbox/<host>-<digest>.json
"""

import json
import platform
from typing import Any

from lora_ns.benchmarks.sandbox.health import TIMEOUT_SECONDS, gold_programs, named_report
from lora_ns.config.text_files import replace_text
from lora_ns.evaluation.eval_set import EvalSet
from lora_ns.store.digests import digest_of
from lora_ns.store.paths import Store


def sandbox_report(eval_set: EvalSet, store: Store) -> dict[str, Any] | None:
    """Return tier, attacks and gold solutions for a benchmark that runs code; None for any other.

    Raises SandboxError if programs cannot be isolated.  A gold solution that fails is listed, not an error: it lowers the
    maximum score of every model on this machine.
    """
    if eval_set.spec.program is None:
        return None
    evaluation = eval_set.evaluation
    timeout = float(evaluation.settings.get("timeout_seconds", TIMEOUT_SECONDS))
    golds = gold_programs(eval_set.spec, eval_set.rows, eval_set.ids, timeout)
    limits = {key: evaluation.settings[key] for key in ("memory_mb",) if key in evaluation.settings}
    plain = {identity: [p.code, p.asserts, p.setup, p.harness] for identity, p in golds.items()}
    payload = {"golds": plain, "sandbox": evaluation.sandbox, "timeout": timeout, **limits}
    path = store.sandbox_report(platform.node(), digest_of(payload))
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    report = named_report(golds, evaluation.sandbox, limits)
    replace_text(path, json.dumps(report, indent=1) + "\n")
    return report
