r"""MATH: competition problems with LaTeX answers; `math` has all 5,000 test problems, `math500` the usual 500 of them.

    row          {"problem": "Convert the point $(0,3)$ …", "solution": "… $\boxed{\left( 3, \frac{\pi}{2} \right)}.$"}
    completion   "… so the answer is $\boxed{(3, \pi/2)}$."
    verdict      math_verify 1.0, hendrycks_math 0.0: equal as mathematics, not as text

The main scorer is `math_verify`, which accepts equal values in any form.  `hendrycks_math` is the scorer of the paper and
of most published tables, `metamath_math` that of models trained on MetaMathQA.  The reference is the row's `answer` if it
has one (MATH-500), else the last `\boxed{…}` of its `solution`.

With the templates `Problem:\n{problem}\n\nSolution:` and ` {solution}`, num_fewshot examples give Minerva's prompt
(Lewkowycz et al. 2022, arXiv 2206.14858; 4 in its evaluation).

Sources: Hendrycks et al. 2021 (arXiv 2103.03874); Lightman et al. 2023 (arXiv 2305.20050) for the 500.
"""

from lora_ns.benchmarks import Benchmark, Row
from lora_ns.benchmarks.generic import judge_by
from lora_ns.benchmarks.scorers.hendrycks import boxed_answer
from lora_ns.errors import DataError

MAIN = "math_verify"
METRICS = (MAIN, "hendrycks_math", "metamath_math")


def reference(row: Row) -> str:
    """Return the bare answer in LaTeX.  Raises DataError if the row has neither `answer` nor a boxed answer."""
    if isinstance(row.get("answer"), str):
        return row["answer"]
    boxed = boxed_answer(str(row.get("solution", "")))
    if boxed is None:
        raise DataError("a MATH row needs a column `answer`, or `solution` with a \\boxed{…} answer.")
    return boxed


BENCHMARKS = [
    Benchmark(
        name=name,
        kind="generation",
        main_metric=MAIN,
        metrics=METRICS,
        reference=reference,
        judge=judge_by(METRICS, reference),
        generation={"max_new_tokens": 512, "stop": ["Problem:", "</s>", "<|im_end|>"]},
    )
    for name in ("math", "math500")
]
