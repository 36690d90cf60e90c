"""GSM8K: word problems of grade-school arithmetic, 1,319 in the test set.

    row          {"question": "Janet’s ducks lay 16 eggs …", "answer": "Janet sells 16 - 3 - 4 = … \\n#### 18"}
    completion   " She sells 9 eggs for 9 * 2 = $18.\\n#### 18"
    verdict      parsed "18", every scorer 1.0 except metamath, which looks for `The answer is: `

Six scorers are reported, because published numbers come from all of them.  The main one is `gsm8k_flexible`: it reads
the number in any answer format (`#### 18`, `The answer is: 18`, `\\boxed{18}`), so methods are compared on arithmetic and
not on format.  The other scorers show the effect of the format.

With the templates `Question: {question}\\nAnswer:` and ` {answer}`, num_fewshot examples give lm-evaluation-harness's
prompt (5 in its default).

Source: Cobbe et al. 2021 (arXiv 2110.14168).
"""

from lora_ns.benchmarks import Benchmark, Row
from lora_ns.benchmarks.generic import judge_by
from lora_ns.errors import DataError

MAIN = "gsm8k_flexible"
METRICS = (MAIN, "gsm8k_strict", "gsm8k_official", "math_verify", "peft_suite", "metamath")


def reference(row: Row) -> str:
    """Return the worked answer, which ends in `#### n`.  Raises DataError if the row has no `answer`."""
    if not isinstance(row.get("answer"), str):
        raise DataError(f"a GSM8K row needs a text column `answer`; this one has {', '.join(map(str, row))}.")
    return row["answer"]


BENCHMARKS = [
    Benchmark(
        name="gsm8k",
        kind="generation",
        main_metric=MAIN,
        metrics=METRICS,
        reference=reference,
        judge=judge_by(METRICS, reference),
        generation={"max_new_tokens": 256, "stop": ["Question:", "</s>", "<|im_end|>"]},
    )
]
