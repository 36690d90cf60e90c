import ast
import hashlib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lora_ns.config.builtin import DATASET_VERSIONS
from lora_ns.data.sources import builtin, paraphrase
from lora_ns.errors import ConfigError

SIZES = {"num_train": 300, "num_validation": 50, "num_test": 60}


@pytest.fixture(scope="module", params=sorted(builtin.GENERATORS))
def name(request):
    return request.param


def digest(rows):
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def all_rows(name, **options):
    return [row for rows in builtin.generate(name, {**SIZES, **options}).values() for row in rows]


RECORDED = {
    "word_problems": (1, "500bc6b899ff9324"),
    "paraphrase": (1, "13110e39c221ec15"),
    "python_functions": (2, "85ef9aff659c08d7"),
}


def test_rows_are_those_recorded_for_this_version(name):
    """Whoever changes them bumps the generator's VERSION, then this record."""
    assert (DATASET_VERSIONS[name], digest(builtin.generate(name, SIZES))) == RECORDED[name]


def test_rows_are_the_same_in_another_process_with_another_hash_seed(name):
    program = f"import json; from lora_ns.data.sources import builtin; print(json.dumps(builtin.generate({name!r}, {SIZES!r})))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == builtin.generate(name, SIZES)


def test_splits_have_the_sizes_asked_for(name):
    assert {split: len(rows) for split, rows in builtin.generate(name, SIZES).items()} == {
        "train": 300,
        "validation": 50,
        "test": 60,
    }


def test_no_text_occurs_in_two_rows(name):
    columns = builtin.GENERATORS[name].COLUMNS
    texts = [builtin.normalised(row[column]) for row in all_rows(name, num_train=1500) for column in columns]
    assert len(set(texts)) == len(texts)


def test_seed_changes_the_rows(name):
    assert digest(builtin.generate(name, SIZES)) != digest(builtin.generate(name, {**SIZES, "seed": 1}))


def test_more_training_rows_leave_the_test_rows_as_they_are(name):
    few, many = builtin.generate(name, SIZES), builtin.generate(name, {**SIZES, "num_train": 400})
    assert (many["test"], many["validation"], many["train"][:300]) == (few["test"], few["validation"], few["train"])


def test_word_problems_end_in_the_value_of_their_last_calculation():
    for row in all_rows("word_problems"):
        *reasoning, last = row["answer"].split("\n")
        calculations = re.findall(r"(\d+)([-+*])(\d+)=(\d+)", " ".join(reasoning))
        values = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        assert len(calculations) == len(reasoning) in (1, 2)
        assert all(values[sign](int(left), int(right)) == int(value) for left, sign, right, value in calculations)
        assert last == f"#### {calculations[-1][-1]}"


def test_word_problems_calculate_with_numbers_of_the_question():
    for row in all_rows("word_problems"):
        known = set(re.findall(r"\d+", row["question"]))
        for left, right, value in re.findall(r"(\d+)[-+*](\d+)=(\d+)", row["answer"]):
            assert {left, right} <= known
            known.add(value)


def test_functions_pass_their_tests_and_the_tests_are_literal():
    rows = all_rows("python_functions")
    program = "\n".join(
        f"namespace = {{}}\nexec({row['output']!r}, namespace)\nexec({chr(10).join(row['test_list'])!r}, namespace)"
        f"\nassert callable(namespace[{row['entry_point']!r}])"
        for row in rows
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    for test in (test for row in rows for test in row["test_list"]):
        comparison = ast.parse(test).body[0].test
        assert [type(operator) for operator in comparison.ops] == [ast.Eq]
        for literal in (*comparison.left.args, comparison.comparators[0]):
            ast.literal_eval(literal)


def test_functions_with_another_expression_fail_the_tests():
    rows = builtin.generate("python_functions", SIZES)["train"]
    heads = {row["output"].split("(")[1].split(")")[0] for row in rows}
    bodies = {head: {row["output"].split("\n")[1] for row in rows if f"({head})" in row["output"]} for head in heads}
    for row in rows[:100]:
        head, own = row["output"].split("\n")
        for body in bodies[head.split("(")[1].split(")")[0]] - {own}:
            namespace: dict = {}
            exec(f"{head}\n{body}", namespace)
            with pytest.raises(AssertionError):
                exec("\n".join(row["test_list"]), namespace)


def test_paraphrase_labels_are_balanced_and_follow_the_meaning():
    meanings = {
        word: (part, meaning)
        for part, choices in paraphrase.PARTS.items()
        for meaning, words in enumerate(choices)
        for word in (*words, *(paraphrase.PARTICIPLES.get(word, word) for word in words))
    }

    def event(sentence):
        return {meanings[word] for word in re.findall(r"\w+", sentence) if word in meanings}

    rows = builtin.generate("paraphrase", SIZES)
    assert {split: sum(row["label"] for row in rows[split]) for split in rows} == {"train": 150, "validation": 25, "test": 30}
    for row in (row for split in rows.values() for row in split):
        assert (event(row["sentence1"]) == event(row["sentence2"])) == bool(row["label"])
    assert [row["idx"] for row in rows["train"]] == list(range(300))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("paraphrse", {}, "Did you mean 'paraphrase'"),
        ("paraphrase", {"num_trian": 5}, "Did you mean 'num_train'"),
        ("paraphrase", {"num_train": -1}, "num_train must be a whole number from 0 up, not -1"),
        ("paraphrase", {"num_test": 2.5}, "num_test must be a whole number"),
        ("paraphrase", {"num_test": True}, "num_test must be a whole number"),
    ],
)
def test_wrong_requests_are_refused_with_the_reason(name, options, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        builtin.generate(name, options)


def test_more_rows_than_there_are_without_overlap_are_refused(monkeypatch):
    def draw(rng, index):
        return {"text": f"number {rng.randrange(10)}", "index": index}

    monkeypatch.setitem(builtin.GENERATORS, "ten", SimpleNamespace(draw=draw, COLUMNS=("text",), VERSION=1))
    assert len(all_rows("ten", num_train=5, num_validation=2, num_test=3)) == 10
    with pytest.raises(ConfigError, match="no more than about 10 rows"):
        builtin.generate("ten", {"num_train": 6, "num_validation": 2, "num_test": 3})


def test_all_problems_of_the_options_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        builtin.generate("paraphrase", {"num_tests": 1, "seed": -3})
    assert len(caught.value.problems) == 2
