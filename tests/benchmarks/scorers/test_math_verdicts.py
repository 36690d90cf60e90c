"""MATH scorers against the originals on tricky answers.

Each verdict below was made by running the original: Hendrycks' `is_equiv` on the last `\\boxed{…}`, as
`modeling/eval_math_gpt.py` has it (H), MetaMath's `eval_math.py` (M), math-verify 0.9.0 (V, A).
"""

import json
import threading

import pytest
from support import SHARED_DATA

from lora_ns.benchmarks.scorers import SCORERS
from lora_ns.benchmarks.scorers.hendrycks import boxed_answer
from lora_ns.errors import DataError, EvaluationError

MATH_500 = SHARED_DATA / "math" / "math500_test.jsonl"

# answer, reference, what says right of it: boxed, H and V; after `The answer is: `, M and A (math-verify)
ANSWERS = [
    ("\\frac{1}{2}", "\\frac{1}{2}", "HVMA"),
    ("\\frac12", "\\frac{1}{2}", "HVM"),
    ("\\dfrac{1}{2}", "\\frac{1}{2}", "HVM"),
    ("\\tfrac12", "\\frac12", "HVM"),
    ("1/2", "\\frac{1}{2}", "HVMA"),
    ("0.5", "\\frac{1}{2}", "HVMA"),
    (".5", "1/2", "HVMA"),
    ("0.25", "\\frac{1}{4}", "VA"),
    ("-1/2", "-\\frac{1}{2}", "VA"),
    ("-\\frac12", "\\frac{-1}{2}", "V"),
    ("01/2", "\\frac{1}{2}", "V"),
    ("\\frac{72}1", "72", "V"),
    ("\\frac1{72}", "\\frac{1}{72}", "HVM"),
    ("\\frac", "\\frac", "HVM"),
    ("\\frac{", "\\frac{", "M"),
    ("\\frac1", "\\frac 1", "HM"),
    ("x/y", "\\frac{x}{y}", "V"),
    ("1/2/3", "\\frac{1}{6}", "VA"),
    ("10,000", "10000", "VA"),
    ("10{,}000", "10,\\!000", "V"),
    ("10,\\!000", "10,000", "HVM"),
    ("3.0", "3", "VA"),
    ("3", "3.0", "VA"),
    ("+3", "3", "V"),
    ("2\\sqrt{3}", "\\sqrt{12}", "V"),
    ("2\\sqrt3", "2\\sqrt{3}", "HVM"),
    ("\\sqrt", "\\sqrt", "HVM"),
    ("\\sqrt 3", "\\sqrt{3}", "V"),
    ("\\sqrt", "\\sqrt{}", ""),
    ("{1,2}", "{2,1}", "V"),
    ("\\{1,2\\}", "\\{2,1\\}", "V"),
    ("1, 2", "1,2", "HVM"),
    ("2,1", "1,2", "V"),
    ("x=5", "5", "HVMA"),
    ("x = 5", "5", "HVMA"),
    ("xy = 5", "5", "VA"),
    ("5", "k=5", "HVMA"),
    ("x=y=5", "5", "VA"),
    ("xyz=5", "5", "VA"),
    ("x \\in [1,2]", "[1,2]", "V"),
    ("\\left(1, 2\\right)", "(1,2)", "HVM"),
    ("(1,2)", "[1,2]", ""),
    ("50\\%", "50", "HMA"),
    ("50%", "50", "A"),
    ("50", "50\\%", "HVMA"),
    ("\\$18", "18", "HVM"),
    ("$18", "18", "VA"),
    ("18\\text{ cm}", "18", "HVMA"),
    ("18\\text{cm}", "18", "VA"),
    ("18\\text{ cm}\\text{ sq}", "18", "VA"),
    ("18 \\text{ cm}", "18\\text{ m}", "HVMA"),
    ("90^\\circ", "90", "HVMA"),
    ("90^{\\circ}", "90", "HVMA"),
    ("90^{\\circ }", "90", "A"),
    ("\\text{Yes}", "Yes", "V"),
    ("\\text{(A)}", "(A)", "V"),
    ("\\text{(A)}", "A", "V"),
    ("\\mathrm{A}", "A", "V"),
    ("x^2+2x+1", "x^2 + 2x + 1", "HVM"),
    ("(x+1)^2", "x^2+2x+1", "V"),
    ("2x+1", "1+2x", "V"),
    ("\\pi", "\\pi", "HVM"),
    ("3\\pi", "3 \\pi", "HVM"),
    ("\\frac{\\pi}{2}", "\\pi/2", "V"),
    ("1.5", "\\frac{3}{2}", "VA"),
    ("0.333", "\\frac13", ""),
    ("3 + 4i", "4i+3", "V"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "HVM"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "HVM"),
    ("\\begin{pmatrix}1\\\\3\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", ""),
    ("", "5", ""),
    (" 5 ", "5", "HVMA"),
    ("5.", "5", "MA"),
    ("\\infty", "\\infty", "HVM"),
    ("(-\\infty, 2)", "(-\\infty,2)", "HVM"),
    ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty,2)\\cup(3,\\infty)", "HVM"),
    ("\\frac{3}{4}", "\\frac{6}{8}", "VA"),
    ("2^{10}", "1024", "V"),
    ("1{,}024", "1024", "V"),
    ("\\dfrac{\\sqrt3}2", "\\frac{\\sqrt{3}}{2}", "V"),
    ("11_2", "11", "VA"),
    ("1011_2", "1011_2", "HVMA"),
    ("\\text{east}", "\\text{west}", ""),
    ("5\n", "5", "HVMA"),
    ("\\frac{a}{b}", "\\frac ab", "HM"),
    ("-\\frac{3}{7}", "\\frac{3}{-7}", "VA"),
    ("4\\text{ and }5", "4", "HMA"),
]

# completion, reference, what says right of it: H, V, M as above
COMPLETIONS = [
    ("We get $\\boxed{5}$, not 6.", "5", "HV"),
    ("\\boxed{4}, or rather \\boxed{5}", "5", "H"),
    ("\\boxed{5} and then \\boxed{4}", "5", ""),
    ("\\boxed{5", "5", ""),
    ("\\boxed {5}", "5", ""),
    ("\\fbox{5}", "5", ""),
    ("The result is 5.", "5", "V"),
    ("\\boxed{\\boxed{5}}", "5", "HV"),
    ("\\boxed{\\frac{1}{2}} so The answer is: \\frac{1}{2}", "\\frac{1}{2}", "HVM"),
    ("The answer is: 5.\nThanks.", "5", "VM"),
    ("The answer is: 5. Thanks", "5", "V"),
    ("The answer is: 5\nThanks", "5", "V"),
    ("The answer is: 5..", "5", "V"),
    ("The answer is: $5$", "5", "V"),
    ("The answer is: 4. The answer is: 5", "5", "VM"),
    ("The answer is: \\boxed{5}", "5", "HV"),
    ("The answer is:5", "5", ""),
    ("\\boxed{5}. The answer is: 6", "5", "HV"),
    ("the answer is: 5", "5", "V"),
    ("", "5", ""),
]


@pytest.mark.parametrize(
    ("letter", "name", "form"),
    [
        ("H", "hendrycks_math", "so $\\boxed{%s}$"),
        ("V", "math_verify", "\\boxed{%s}"),
        ("M", "metamath_math", "The answer is: %s"),
        ("A", "math_verify", "The answer is: %s"),
    ],
)
def test_verdicts_on_answers_are_those_of_the_original(letter, name, form):
    differing = [
        (answer, reference)
        for answer, reference, right in ANSWERS
        if SCORERS[name](form % answer, reference).correct != (letter in right)
    ]
    assert differing == []
    assert len(ANSWERS) >= 80


@pytest.mark.parametrize(("letter", "name"), [("H", "hendrycks_math"), ("V", "math_verify"), ("M", "metamath_math")])
def test_verdicts_on_completions_are_those_of_the_original(letter, name):
    differing = [
        completion
        for completion, reference, right in COMPLETIONS
        if SCORERS[name](completion, reference).correct != (letter in right)
    ]
    assert differing == []


@pytest.mark.parametrize("name", ["hendrycks_math", "metamath_math", "math_verify"])
def test_a_whole_solution_serves_as_reference(name):
    completion = "Thus $\\boxed{\\frac{3}{4}}$. The answer is: \\frac{3}{4}"
    assert SCORERS[name](completion, "We halve it twice: $\\boxed{\\frac{3}{4}}$, as said.").correct
    assert not SCORERS[name](completion, "We halve it twice: $\\boxed{\\frac{3}{5}}$, as said.").correct


def test_a_box_without_braces_counts_up_to_the_dollar():
    assert boxed_answer("so $\\boxed 5$, as said") == "5"


def test_published_disagreements_of_is_equiv_and_math_verify():
    pairs = [
        ("10,000", "10000"),
        ("3.0", "3"),
        ("0.25", "\\frac{1}{4}"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("\\{2,1\\}", "\\{1,2\\}"),
    ]
    for answer, reference in pairs:
        assert not SCORERS["hendrycks_math"](f"\\boxed{{{answer}}}", reference).correct
        assert SCORERS["math_verify"](f"\\boxed{{{answer}}}", reference).correct


@pytest.mark.skipif(not MATH_500.exists(), reason="MATH-500 is not at ../shared/data")
def test_golds_of_math_500_verify_themselves():
    rows = [json.loads(line) for line in MATH_500.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 500
    assert all(SCORERS["hendrycks_math"](row["solution"], row["answer"]).correct for row in rows)
    assert all(SCORERS["math_verify"](row["solution"], row["answer"]).correct for row in rows[::4])


def test_math_verify_refuses_another_thread_than_the_main_one():
    caught = []

    def score():
        try:
            SCORERS["math_verify"]("\\boxed{5}", "5")
        except EvaluationError as error:
            caught.append(str(error))

    thread = threading.Thread(target=score)
    thread.start()
    thread.join()
    assert len(caught) == 1
    assert "main thread only" in caught[0]


def test_math_verify_gives_up_on_an_endless_comparison_and_calls_it_wrong():
    assert not SCORERS["math_verify"]("\\boxed{9^{9^{9^{9}}}}", "5").correct


def test_a_reference_that_math_verify_cannot_read_is_the_users_mistake():
    with pytest.raises(DataError, match="reads no answer"):
        SCORERS["math_verify"]("\\boxed{5}", "")
