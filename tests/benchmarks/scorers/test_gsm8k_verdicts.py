"""GSM8K scorers against the originals on tricky completions.

Each verdict below was made by running the original: OpenAI's `grade_school_math/dataset.py` (O), lm-eval 0.4.13's
filters and metric as `tasks/gsm8k/gsm8k.yaml` configures them, after its stop strings (S strict, F flexible),
MetaMath's `eval_gsm8k.py` (M), PEFT's `method_comparison/MetaMathQA/utils.py` (P), math-verify 0.9.0 (V).
"""

import csv
import json

import pytest
from support import SHARED_DATA

from lora_ns.benchmarks.scorers import SCORERS
from lora_ns.errors import DataError

SHARED = SHARED_DATA
EDGE_CASES = SHARED / "scoring" / "gsm8k_edge_cases.csv"
TEST_SET = SHARED / "gsm8k" / "test.jsonl"
LETTERS = {
    "O": "gsm8k_official",
    "S": "gsm8k_strict",
    "F": "gsm8k_flexible",
    "M": "metamath",
    "P": "peft_suite",
    "V": "math_verify",
}

# completion, gold, the scorers whose originals say right
VERDICTS = [
    ("He has 18.\n#### 18", "18", "OSFPV"),
    ("#### 18.", "18", "SFPV"),
    ("#### 18.0", "18", "PV"),
    ("#### $18", "18", "FPV"),
    ("#### 18 apples", "18", "OSFV"),
    ("####18", "18", "F"),
    ("####  18", "18", "FPV"),
    ("### 18", "18", "FV"),
    ("##### 18", "18", "OSFPV"),
    ("#### -5", "-5", "OSFPV"),
    ("#### - 5", "-5", ""),
    ("#### −5", "-5", ""),
    ("#### +18", "18", "FP"),
    ("#### 1,234", "1234", "OSFV"),
    ("#### 1234", "1,234", "OSFV"),
    ("#### 1,234,567.", "1234567", "SFV"),
    ("#### 1234,", "1234", "OSFV"),
    ("#### 7\n#### 18", "18", "FPV"),
    ("#### 18\n#### 7", "18", "OS"),
    ("#### 18\n\nQuestion: What next?\nAnswer: #### 7", "18", "OSF"),
    ("#### 18</s>#### 7", "18", "OSF"),
    ("#### 18<|im_end|>\n99", "18", "OSF"),
    ("#### eighteen", "18", ""),
    ("#### ", "18", ""),
    ("", "18", ""),
    ("#### .", "18", ""),
    ("#### ...18", "18", "P"),
    ("#### 018", "18", "PV"),
    ("#### 1e3", "1000", "P"),
    ("#### 36/2", "18", "PV"),
    ("#### 0.5", "0.5", "OSFPV"),
    ("#### .5", "0.5", "V"),
    ("#### 18\\%", "18", "OSFV"),
    ("#### 18%", "18", "OSFPV"),
    ("#### **18**", "18", "FV"),
    ("**#### 18**", "18", "OSFV"),
    ("#### 18\n", "18", "OSFPV"),
    ("#### 18\n\n\n", "18", "OSFPV"),
    ("The answer is: 18", "18", "FMPV"),
    ("The answer is: 18.", "18", "FMPV"),
    ("The answer is: 18.4", "18", "M"),
    ("The answer is: 17.5", "18", "M"),
    ("The answer is: 18.5", "18", "M"),
    ("The answer is: $18", "18", "FMPV"),
    ("The answer is: $1,800", "1800", "FMV"),
    ("The answer is: 1,234,567", "1234567", "FV"),
    ("The answer is: 1,234,567", "1234", "M"),
    ("The answer is: 36/2", "18", "MPV"),
    ("The answer is: 18/0", "18", "M"),
    ("The answer is: /18", "18", "F"),
    ("The answer is: \\frac{36}{2}", "18", "V"),
    ("The answer is: -18", "18", ""),
    ("The answer is:18", "18", "F"),
    ("The answer is:\n18", "18", "FV"),
    ("The answer is: eighteen", "18", ""),
    ("the answer is: 18", "18", "FV"),
    ("The answer is 18", "18", "FPV"),
    ("The answer is: 7. The answer is: 18", "18", "FMPV"),
    ("The answer is: 18\nThe answer is: 7", "18", ""),
    ("#### 18\nThe answer is: 18", "18", "OSFMPV"),
    ("#### 7\nThe answer is: 18", "18", "FMPV"),
    ("The answer is: x = 18", "18", "FMV"),
    ("The answer is: 3 and 18", "18", "F"),
    ("The final answer is: 18!", "18", "FPV"),
    ("The final answer is 18?", "18", "FPV"),
    ("The answer is: 18 % ", "18", "FMPV"),
    ("The answer is: $18$.", "18", "FMPV"),
    ("The answer is: \\boxed{18}", "18", "FMV"),
    ("\\boxed{18}", "18", "FV"),
    ("$\\boxed{18}$ apples, 3 left", "18", "V"),
    ("18", "18", "FV"),
    ("It is 9 * 2 = 18", "18", "FV"),
    ("It is 9*2=18.", "18", "FV"),
    ("It costs $18.", "18", "FV"),
    ("It costs 18 dollars and 50 cents.", "18", ""),
    ("18-20", "-20", "F"),
    ("a-5", "-5", "F"),
    ("She has 18,", "18", "FV"),
    ("He paid $.", "18", ""),
    ("Pay 1,8", "18", "F"),
    ("١٨", "18", ""),
    ("The answer is: ١٨", "18", "MP"),
    ("5,", "5", "FV"),
    ("Answer: 18, not 17", "18", "V"),
    ("Step 2. We get 18. Step 3. Done", "18", ""),
    ("The answer is: 1_8", "18", "P"),
    ("The answer is: 1.8e1", "18", "P"),
    ("The answer is: Infinity", "18", ""),
    ("The answer is: NaN", "18", ""),
    ("Question: ignored? #### 18", "18", "OPV"),
    ("The answer is: 18 apples", "18", "FMV"),
    ("THE ANSWER IS: 18", "18", "FV"),
    ("#### 3.50", "3.5", "PV"),
    ("$18.00", "18", "V"),
]


@pytest.mark.parametrize("letter", LETTERS)
def test_verdicts_are_those_of_the_original(letter):
    score = SCORERS[LETTERS[letter]]
    differing = [
        (completion, gold)
        for completion, gold, right in VERDICTS
        if score(completion, f"Worked out.\n#### {gold}").correct != (letter in right)
    ]
    assert differing == []
    assert len(VERDICTS) >= 90


@pytest.mark.parametrize("letter", LETTERS)
def test_a_bare_reference_counts_like_a_whole_answer(letter):
    score = SCORERS[LETTERS[letter]]
    differing = [
        completion
        for completion, gold, _ in VERDICTS
        if score(completion, gold).correct != score(completion, f"6 * 3\n#### {gold}").correct
    ]
    assert differing == []


@pytest.mark.skipif(not EDGE_CASES.exists(), reason="the measured verdicts are not at ../shared/data")
@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("official", "gsm8k_official"),
        ("strict", "gsm8k_strict"),
        ("flex", "gsm8k_flexible"),
        ("peft", "peft_suite"),
        ("math_verify", "math_verify"),
    ],
)
def test_measured_edge_cases(column, name):
    with EDGE_CASES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    differing = [row["case"] for row in rows if SCORERS[name](row["completion"], row["gold"]).correct != (row[column] == "True")]
    assert differing == []
    assert len(rows) == 44


@pytest.mark.skipif(not TEST_SET.exists(), reason="GSM8K is not at ../shared/data")
@pytest.mark.parametrize("name", ["gsm8k_official", "gsm8k_strict", "gsm8k_flexible", "peft_suite"])
def test_every_gold_of_the_test_set_is_right(name):
    answers = [json.loads(line)["answer"] for line in TEST_SET.read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 1319
    assert all(SCORERS[name](answer, answer).correct for answer in answers)


@pytest.mark.skipif(not TEST_SET.exists(), reason="GSM8K is not at ../shared/data")
def test_golds_in_metamaths_form_are_right_for_metamath_and_math_verify():
    answers = [json.loads(line)["answer"] for line in TEST_SET.read_text(encoding="utf-8").splitlines()]
    bare = [answer.split("#### ")[1].replace(",", "") for answer in answers]
    for name in ("metamath", "math_verify"):
        score = SCORERS[name]
        assert all(score(f"The answer is: {gold}", answer).correct for gold, answer in zip(bare, answers, strict=True))


@pytest.mark.parametrize(
    ("name", "completion", "parsed"),
    [
        ("gsm8k_official", "#### 1,234.", "1234."),
        ("gsm8k_strict", "#### 1,234.", "1234"),
        ("gsm8k_flexible", "between 17 and $1,234.", "1234"),
        ("metamath", "The answer is: 2.5", "2"),
        ("peft_suite", "The answer is $18.00.", "18.00"),
        ("math_verify", "The answer is: 1/2", "1/2"),
    ],
)
def test_parsed_is_the_answer_as_it_was_compared(name, completion, parsed):
    assert SCORERS[name](completion, "18").parsed == parsed


@pytest.mark.parametrize("name", LETTERS.values())
def test_a_completion_without_an_answer_parses_to_none(name):
    scored = SCORERS[name]("I do not know", "18")
    assert scored.parsed is None
    assert not scored.correct


@pytest.mark.parametrize("letters", ["1" * 400, "-" + "1" * 400, "1/" + "0" * 5, "9" * 400 + "/7"])
def test_numbers_beyond_a_float_are_no_answer_to_metamath(letters):
    assert SCORERS["metamath"](f"The answer is: {letters}", "18").parsed is None


def test_a_reference_without_an_answer_is_the_users_mistake():
    with pytest.raises(DataError, match="holds no GSM8K answer"):
        SCORERS["gsm8k_official"]("#### 18", "no final line ####")
    with pytest.raises(DataError, match="does not end in a number"):
        SCORERS["metamath"]("The answer is: 18", "eighteen")
