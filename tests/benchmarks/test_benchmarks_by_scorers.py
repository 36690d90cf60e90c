"""GSM8K, MATH and the generic benchmarks: rows and completions in, verdicts out."""

import json

import pytest
from support import SHARED_DATA

from lora_ns.benchmarks import benchmark
from lora_ns.errors import ConfigError, DataError

SHARED = SHARED_DATA
GSM8K = SHARED / "gsm8k" / "test.jsonl"

ROW = {"question": "What is 9 * 2?", "answer": "9 * 2 = <<9*2=18>>18\n#### 18"}


def judged(name, row, samples, **settings):
    (verdict,) = benchmark(name).judge([row], [samples], settings)
    return verdict


def test_gsm8k_reports_every_scorer_side_by_side():
    verdict = judged("gsm8k", ROW, ["It is $18.\n#### 18."])
    assert verdict.parsed == "18"
    assert verdict.scores == {
        "gsm8k_flexible": 1.0,
        "gsm8k_strict": 1.0,
        "gsm8k_official": 0.0,
        "math_verify": 1.0,
        "peft_suite": 1.0,
        "metamath": 0.0,
    }
    assert verdict.detail["parsed"]["gsm8k_official"] == ["18."]


def test_gsm8k_names_the_metrics_that_it_gives():
    spec = benchmark("gsm8k")
    assert spec.main_metric == spec.metrics[0] == "gsm8k_flexible"
    assert set(judged("gsm8k", ROW, ["18"]).scores) == set(spec.metrics)
    assert spec.reference(ROW) == ROW["answer"]


def test_the_score_of_several_samples_is_their_mean_and_parsed_is_of_the_first():
    verdict = judged("gsm8k", ROW, ["#### 17", "#### 18", "#### 18", "#### 18"])
    assert verdict.scores["gsm8k_strict"] == 0.75
    assert verdict.parsed == "17"
    assert verdict.detail["parsed"]["gsm8k_strict"] == ["17", "18", "18", "18"]


def test_each_row_is_judged_by_its_own_reference():
    rows = [ROW, {"question": "", "answer": "#### 7"}]
    verdicts = benchmark("gsm8k").judge(rows, [["#### 7"], ["#### 7"]], {})
    assert [verdict.scores["gsm8k_strict"] for verdict in verdicts] == [0.0, 1.0]


def test_rows_and_completions_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match="zip"):
        benchmark("gsm8k").judge([ROW, ROW], [["18"]], {})


@pytest.mark.skipif(not GSM8K.exists(), reason="GSM8K is not at ../shared/data")
def test_gsm8k_golds_are_right_by_the_main_metric_in_three_forms():
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()][:200]
    for form in ("#### {}", "The answer is: {}", "so $\\boxed{{{}}}$"):
        completions = [[form.format(row["answer"].split("#### ")[1])] for row in rows]
        verdicts = benchmark("gsm8k").judge(rows, completions, {})
        assert all(verdict.scores["gsm8k_flexible"] == 1.0 for verdict in verdicts)


@pytest.mark.parametrize("name", ["math", "math500"])
def test_math_tells_equal_values_from_equal_text(name):
    row = {"problem": "…", "solution": "so $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$"}
    verdict = judged(name, row, ["… $\\boxed{(3, \\pi/2)}$."])
    assert verdict.scores == {"math_verify": 1.0, "hendrycks_math": 0.0, "metamath_math": 0.0}
    verdict = judged(name, row, ["The answer is: (3,\\frac{\\pi}{2})."])
    assert verdict.scores["metamath_math"] == 1.0


def test_math_takes_the_answer_column_before_the_solution():
    spec = benchmark("math500")
    assert spec.reference({"answer": "5", "solution": "\\boxed{6}"}) == "5"
    assert spec.reference({"solution": "first \\boxed{5}, then \\boxed{6}"}) == "6"


@pytest.mark.parametrize(
    ("name", "row"), [("gsm8k", {"question": "?"}), ("gsm8k", {"answer": 18}), ("math", {"solution": "none"})]
)
def test_a_row_without_a_reference_is_the_users_mistake(name, row):
    with pytest.raises(DataError, match="row needs a"):
        judged(name, row, ["18"])


def test_regex_takes_pattern_and_reference_column_from_the_settings():
    row = {"country": "France", "capital": "Paris"}
    settings = {"pattern": r"Answer: (\w+)", "reference_column": "capital"}
    verdict = judged("regex", row, ["It is in the north.  Answer: Paris", "Paris"], **settings)
    assert verdict.parsed == "Paris"
    assert verdict.scores == {"regex": 0.5}
    assert judged("regex", row, ["1 Answer: Rome Answer: Paris"], which="first", **settings).scores == {"regex": 0.0}


def test_regex_without_a_pattern_is_the_users_mistake():
    with pytest.raises(ConfigError, match="needs `pattern`"):
        judged("regex", {"answer": "x"}, ["x"])


@pytest.mark.parametrize(("name", "score"), [("exact_match", 0.0), ("contains", 1.0)])
def test_exact_match_and_contains(name, score):
    assert judged(name, {"target": "Paris"}, ["It is Paris."]).scores == {name: score}
    assert judged(name, {"target": "Paris"}, [" Paris"]).scores == {name: 1.0}


def test_choice_letter():
    assert judged("choice_letter", {"answer": "B"}, ["The answer is (B)."]).scores == {"choice_letter": 1.0}


ARC = {"text": ["3", "4", "1"], "label": ["1", "2", "3"]}


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (ARC, "3", 2), (ARC, "1", 0), (ARC, 1, 0), (ARC, "4", 1),
        ({"text": ["B", "C"], "label": ["A", "B"]}, "B", 1), (["B", "A"], "B", 0), (["x", "y"], "B", 1),
        (["3", "4", "1"], 1, 1), (["3", "4", "1"], "1", 2), (["x", "y"], "1", 1),
        ([1.0, 2.0, 2.5], "1", 0), ([1, 2, 3], "2", 1), (["x", "y"], 1.0, 1),
        (["1.0", "2.0", "3.0"], 1.0, 0), ([1.0, 2.0, 2.5], 2.0, 1),
    ],
)  # fmt: skip
def test_a_choice_is_right_by_its_own_label_before_anything_else(choices, answer, right):
    assert benchmark("multiple_choice").choices({"choices": choices, "answer": answer}, {})[1] == right


def test_choices_of_numbers_are_shown_as_they_were_written():
    assert benchmark("multiple_choice").choices({"choices": [1.0, 2.0, 2.5], "answer": "2.5"}, {})[0] == [" 1", " 2", " 2.5"]


@pytest.mark.parametrize("choices", ["['Rome', 'Paris']", "ab", [None, "x"], [["x"], ["y"]], ["x"], 3])
def test_choices_that_are_no_list_of_texts_are_the_users_mistake(choices):
    with pytest.raises(DataError, match="needs a list of two choices or more"):
        benchmark("multiple_choice").choices({"choices": choices, "answer": 0}, {})


@pytest.mark.parametrize("value", [None, {"text": ["Paris"]}, ["Paris"], float("nan")])
def test_a_reference_that_is_neither_text_nor_number_is_the_users_mistake(value):
    with pytest.raises(DataError, match="a reference is text or a number"):
        judged("exact_match", {"answer": value}, [str(value)])


def test_a_whole_number_that_was_stored_as_a_fraction_is_that_number():
    assert judged("exact_match", {"answer": 18.0}, ["18"]).scores == {"exact_match": 1.0}
    assert judged("exact_match", {"answer": 2.5}, ["2.5"]).scores == {"exact_match": 1.0}


def test_the_first_known_column_is_the_reference_and_a_number_is_read_as_text():
    spec = benchmark("exact_match")
    assert spec.reference({"text": "?", "label": 3, "output": "yes"}) == "yes"
    assert spec.reference({"text": "?", "label": 3}) == "3"


def test_a_reference_column_that_is_not_there_is_the_users_mistake():
    with pytest.raises(DataError, match="'capitol' as its reference; the row has country, capital"):
        judged("exact_match", {"country": "France", "capital": "Paris"}, ["x"], reference_column="capitol")
    with pytest.raises(DataError, match="one of the columns answer"):
        judged("exact_match", {"country": "France"}, ["x"])


def test_scorers_without_options_pass_over_settings_of_other_scorers():
    assert judged("exact_match", {"answer": "x"}, ["x"], pattern="(", sandbox="auto").scores == {"exact_match": 1.0}
