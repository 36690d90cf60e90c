"""Scores, through the real stages on tiny models: what is asked, what is kept, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support import causal_task, evaluate, sums

from lora_ns.config import BenchmarkEntry, RunConfig, check, merge
from lora_ns.data.fetch import fetch
from lora_ns.errors import ConfigError, DamagedError, DataError, EvaluationError
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store
from lora_ns.store.record import sealed
from lora_ns.store.run import Run
from lora_ns.training.train import train
from lora_ns.workflow.pipeline import make_tokens

NONE = {"method": "none", "r": None, "lora_alpha": None, "target_modules": None}


def task(model: Path, *benchmarks: Any, **changes: Any) -> RunConfig:
    """A task whose benchmarks are replaced, with other changes laid over it."""
    base = merge(causal_task(model), changes)
    if changes.get("peft", {}).get("method") == "none":
        base["peft"] = {"method": "none"}
    if benchmarks:
        base["evaluation"] = {**base["evaluation"], "benchmarks": list(benchmarks)}
    return check(base, "test")


def untrained(model: Path, *benchmarks: Any, **changes: Any) -> RunConfig:
    """The base model itself, which needs no training to be asked."""
    return task(model, *benchmarks, peft={"method": "none"}, **changes)


def scored(config: RunConfig, number: int = 0, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(score file, prediction lines) of one of the config's benchmarks, everything before it made where missing."""
    store = Store()
    if config.peft.method != "none":
        make_tokens(Run(config, store))
    train(Run(config, store), quiet=True)
    evaluation = Run(config, store).evaluation(config.evaluation.benchmarks[number])
    fetch(evaluation.dataset, store)
    path = evaluate(Run(config, store), evaluation, quiet=True, **options)
    with store.predictions(Run(config, store).name, evaluation.name).open() as lines:
        return json.loads(path.read_text()), [json.loads(line) for line in lines]


def write(rows: list[dict[str, Any]], path: str = "sums/test.jsonl") -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


# -- generation ------------------------------------------------------------------------------------------------------------


def test_score_and_predictions_are_complete_and_in_the_order_of_the_rows(workplace: Path, tiny_causal: Path) -> None:
    config = task(tiny_causal, evaluation={"batch_size": 3})
    score, lines = scored(config)
    assert [line["id"] for line in lines] == score["examples"]["id"] == [str(n) for n in range(10)]
    assert [line["prompt"] for line in lines] == [f"Question: {row['question']}\nAnswer:" for row in sums(10, 45)]
    assert [line["reference"] for line in lines] == [row["answer"] for row in sums(10, 45)]
    assert all(len(line["completions"]) == 1 and set(line["scores"]) == set(score["metrics"]) for line in lines)
    for metric, value in score["metrics"].items():
        assert value == sum(score["examples"]["scores"][metric]) / 10 == sum(line["scores"][metric] for line in lines) / 10
    assert (score["num_examples"], score["main_metric"], score["task_type"]) == (10, "gsm8k_flexible", "causal_lm")
    assert score["config"]["generation"]["do_sample"] is False and score["canary"]["max_logit_difference_from_base"] > 0
    assert score["cost"]["trainable_parameters"] > 0 and score["cost"]["evaluate_seconds"] > 0
    assert score["overlap"] == {"rows": 0, "ids": []} and score["sandbox"] is None and score["fewshot"] is None
    assert score["circumstances"]["seconds"].keys() == {"loading", "evaluating", "judging"}


def test_an_adapter_that_changed_nothing_is_not_scored(workplace: Path, tiny_causal: Path) -> None:
    """LoRA starts with B = 0: with a vanishing learning rate it ends there."""
    config = task(tiny_causal, training={"learning_rate": 1e-30})
    with pytest.raises(EvaluationError, match="computes exactly what its base computes"):
        scored(config)
    assert not list(Path("results").rglob("scores/*/*"))


def test_test_rows_that_were_trained_on_are_listed_in_the_score(workplace: Path, tiny_causal: Path) -> None:
    write(sums(3))
    score, _ = scored(task(tiny_causal))
    assert score["overlap"] == {"rows": 3, "ids": ["0", "1", "2"]}
    assert "3 rows of gsm8k ask what a training row asked" in score["warnings"]


def test_rows_of_a_benchmarks_own_data_are_looked_for_in_training_too(workplace: Path, tiny_causal: Path) -> None:
    write([{"q": "what is 1 plus 1", "answer": "2"}, {"q": "New?", "answer": "1"}], "other.jsonl")
    own = {"name": "gsm8k", "dataset": {"name": "other.jsonl", "prompt_template": "{q}"}}
    score, lines = scored(task(tiny_causal, own))
    assert (len(lines), score["overlap"]) == (2, {"rows": 1, "ids": ["0"]})
    without, _ = scored(task(tiny_causal, own, dataset={"overlap": "drop"}))
    assert without["overlap"] == {"rows": 0, "ids": []}, "the row was left out of training"


def test_a_benchmark_that_the_config_does_not_name_fails_before_the_model_is_asked(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write([{"q": "what is 1 plus 1", "answer": "2"}], "other.jsonl")
    own = {"name": "gsm8k", "dataset": {"name": "other.jsonl", "prompt_template": "{q}"}}
    config, store = task(tiny_causal, dataset={"overlap": "fail"}), Store()
    evaluation = Run(config, store).evaluation(BenchmarkEntry.model_validate(own))
    make_tokens(Run(config, store))
    train(Run(config, store), quiet=True)
    fetch(evaluation.dataset, store)
    monkeypatch.setattr("lora_ns.evaluation.evaluate.predict", lambda *arguments: pytest.fail("the model was asked"))
    with pytest.raises(EvaluationError, match="1 rows of gsm8k ask what a training row asked"):
        evaluate(Run(config, store), evaluation, quiet=True)


def test_few_shot_examples_are_drawn_from_train_by_seed_and_recorded(workplace: Path, tiny_causal: Path) -> None:
    entry = {"name": "gsm8k", "num_fewshot": 2, "limit": 3}
    score, lines = scored(untrained(tiny_causal, entry))
    chosen = [sums(40)[number] for number in score["fewshot"]["rows"]]
    shown = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in chosen)
    assert len(chosen) == 2 and len(lines) == 3 and all(line["prompt"].startswith(shown) for line in lines)
    again, _ = scored(untrained(tiny_causal, {**entry, "fewshot_seed": 1}))
    assert again["fewshot"]["rows"] != score["fewshot"]["rows"] and again["evaluation"] != score["evaluation"]


def test_few_shot_without_training_rows_says_what_is_missing(workplace: Path, tiny_causal: Path) -> None:
    entry = {"name": "gsm8k", "num_fewshot": 2, "dataset": {"name": "./sums/test.jsonl"}}
    with pytest.raises(DataError, match=r"draws 2 solved examples from the train split, and its data set .* has none"):
        scored(untrained(tiny_causal, entry))


def test_a_limit_takes_a_seeded_sample_of_the_benchmarks_rows(workplace: Path, tiny_causal: Path) -> None:
    score, lines = scored(untrained(tiny_causal, {"name": "gsm8k", "limit": 4}))
    questions = [row["question"] for row in map(json.loads, Path("sums/test.jsonl").read_text().splitlines())]
    assert all(questions[int(line["id"])] in line["prompt"] for line in lines)  # an id is the row's number in the split
    asked = [row["answer"] for row in sums(10, 45)]
    numbers = [asked.index(line["reference"]) for line in lines]
    assert numbers == sorted(numbers) and len(numbers) == 4 and score["num_examples"] == 4


def test_prompts_longer_than_the_models_positions_are_said_of_the_score(workplace: Path, tiny_causal: Path) -> None:
    write([{"question": "why " * 80, "answer": "#### 1"}])
    score, _ = scored(untrained(tiny_causal, evaluation={"generation": {"max_new_tokens": 4}}))
    assert "1 prompts of gsm8k (first: row 0)" in score["warnings"][0]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("glue_mrpc", "glue_mrpc asks a classification model, and task_type is causal_lm"),
        ({"name": "regex", "settings": {"patern": "x"}}, "has no setting 'patern'. Did you mean 'pattern'?"),
        ({"name": "regex", "settings": {"pattern": "("}}, "is no regular expression"),
        ({"name": "python_functions", "settings": {"pass_at": [1, 10]}}, "whole numbers from 1 to 1"),
        ({"name": "multiple_choice", "settings": {"choices": ["a"]}}, "a list of two or more"),
        ({"name": "gsm8k", "dataset": {"format": "alpaca"}}, "gsm8k: dataset.prompt_template: format alpaca has its own"),
    ],
)
def test_a_benchmark_that_cannot_be_asked_so_is_refused_before_anything_is_computed(
    workplace: Path, tiny_causal: Path, entry: Any, expected: str
) -> None:
    config = task(tiny_causal, entry)
    with pytest.raises(ConfigError) as caught:
        Run(config, Store()).evaluation(config.evaluation.benchmarks[0])
    assert expected in str(caught.value)


def test_a_reference_column_of_ones_own(workplace: Path, tiny_causal: Path) -> None:
    write([{"question": "?", "wanted": "7", "answer": "8"}])
    settings = {"pattern": r"(\d)", "reference_column": "wanted"}
    _, lines = scored(untrained(tiny_causal, {"name": "regex", "settings": settings}))
    assert lines[0]["reference"] == "7"


# -- scoring again -----------------------------------------------------------------------------------------------------------


def test_rescore_judges_kept_predictions_again_without_the_model(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = untrained(tiny_causal)
    before, lines = scored(config)
    path = Store().predictions(before["run"], before["evaluation"])
    changed = [{**line, "completions": [f"so\u2028\x85#### {line['reference'].split('#### ')[1]}"]} for line in lines]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in changed))
    score = Store().score(before["run"], before["evaluation"])
    with pytest.raises(DamagedError, match="are not those that it was counted from"):
        scored(config, rescore=True)
    answered_so = {**before, "outputs": {"predictions": {"sha256": sha256_file(path)}}}
    score.write_text(json.dumps(answered_so))
    with pytest.raises(DamagedError, match="was changed after it was written"):
        scored(config, rescore=True)
    score.write_text(json.dumps(sealed(answered_so)))
    monkeypatch.setattr("lora_ns.evaluation.model_pool.load_base", None)
    after, _ = scored(config, rescore=True)
    assert before["metrics"]["gsm8k_strict"] == 0.0 and after["metrics"]["gsm8k_strict"] == 1.0
    assert after["cost"]["evaluate_seconds"] == before["cost"]["evaluate_seconds"]
    assert after["rescored_from"] == before["evaluation"] == after["evaluation"]
    assert after["circumstances"]["answering"] == before["circumstances"]["answering"]


def test_rescore_finds_the_answers_of_another_way_of_scoring(workplace: Path, tiny_causal: Path) -> None:
    first = untrained(tiny_causal, {"name": "regex", "settings": {"pattern": "a"}})
    other = untrained(tiny_causal, {"name": "regex", "settings": {"pattern": "b"}})
    before, lines = scored(first)
    after, again = scored(other, rescore=True)
    assert after["rescored_from"] == before["evaluation"] != after["evaluation"]
    assert [line["completions"] for line in again] == [line["completions"] for line in lines]
    longer = untrained(tiny_causal, {"name": "regex", "settings": {"pattern": "b"}, "generation": {"max_new_tokens": 9}})
    with pytest.raises(EvaluationError, match="Evaluate without --rescore"):
        scored(longer, rescore=True)


# -- probabilities ---------------------------------------------------------------------------------------------------------


def test_multiple_choice_compares_the_likelihoods_of_the_answers(workplace: Path, tiny_causal: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [{"question": row["question"], "choices": ["7", "the mat", "12 #"], "answer": 1} for row in sums(4)]
    write(rows)
    score, lines = scored(untrained(tiny_causal, "multiple_choice"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_causal), AutoTokenizer.from_pretrained(tiny_causal)
    for line, row in zip(lines, rows, strict=True):
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        for choice, found in zip(row["choices"], line["log_likelihoods"], strict=True):
            answer = tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
            logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            expected = sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))
            assert found == pytest.approx(expected, abs=1e-4)
        best = max(range(3), key=line["log_likelihoods"].__getitem__)
        assert line["parsed"] == f" {row['choices'][best]}" and line["scores"]["accuracy"] == float(best == 1)
        by_byte = [value / len(f" {c}") for value, c in zip(line["log_likelihoods"], row["choices"], strict=True)]
        assert line["scores"]["accuracy_norm"] == float(max(range(3), key=by_byte.__getitem__) == 1)
    assert score["metrics"].keys() == {"accuracy", "accuracy_norm"}


def test_perplexity_leaves_blank_rows_of_a_text_out_and_says_so(workplace: Path, tiny_causal: Path) -> None:
    write([{"text": text} for text in ("a b", "", "c", "  ")])
    shape = {"format": "text", "prompt_template": None, "response_template": None}
    entry = {"name": "perplexity", "dataset": {"name": {"test": "sums/test.jsonl"}, **shape}}
    score, lines = scored(untrained(tiny_causal, entry))
    assert [line["id"] for line in lines] == ["0", "2"]
    assert "2 rows without text were left out" in score["warnings"]


def test_a_row_without_a_right_answer_is_said_before_the_model_is_asked(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write([{**row, "capital": capital} for row, capital in zip(sums(3), ("Paris", "Rome", None), strict=True)])
    monkeypatch.setattr("lora_ns.evaluation.model_pool.load_base", None)
    entry = {"name": "exact_match", "settings": {"reference_column": "capital"}}
    with pytest.raises(DataError, match="'capital' holds None"):
        scored(untrained(tiny_causal, entry))


def test_perplexity_is_the_exponential_of_the_loss_that_training_minimises(workplace: Path, tiny_causal: Path) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from lora_ns.data.collator import collate_of
    from lora_ns.data.tokenizer import load_tokenizer

    write(sums(7), "sums/train.jsonl")
    write(sums(7))
    config = untrained(tiny_causal, "perplexity", evaluation={"batch_size": 3})
    score, lines = scored(config)
    store = Store()
    examples = Dataset.from_file(str(make_tokens(Run(config, store)) / "train.arrow")).to_list()
    batch = collate_of(config, load_tokenizer(config.model, store))(examples)
    model = AutoModelForCausalLM.from_pretrained(tiny_causal)
    with torch.inference_mode():
        loss = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss.item()
    assert score["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert score["metrics"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    characters = sum(len(f" {row['answer']}") for row in sums(7))
    assert sum(line["bytes"] for line in lines) == characters
    total = -sum(line["log_likelihood"] for line in lines)
    assert score["metrics"]["bits_per_byte"] == pytest.approx(total / math.log(2) / characters)


def test_prompt_learning_methods_are_measured_behind_their_own_positions(workplace: Path, tiny_causal: Path) -> None:
    prompt_tuning = {"peft": {"method": "prompt_tuning", "num_virtual_tokens": 3}}
    base = causal_task(tiny_causal)
    config = check({**base, **prompt_tuning, "evaluation": {"benchmarks": ["perplexity"]}}, "test")
    plain, _ = scored(untrained(tiny_causal, "perplexity"))
    tuned, _ = scored(config)
    assert tuned["metrics"]["loss"] == pytest.approx(plain["metrics"]["loss"], rel=0.2)


# -- classes and numbers -----------------------------------------------------------------------------------------------------


def labelled(path: str, count: int, label: Any) -> None:
    write([{"a": row["question"], "b": row["answer"], "label": label(i)} for i, row in enumerate(sums(count))], path)


def head_task(model: Path, task_type: str, benchmark: str, **dataset: Any) -> RunConfig:
    return check(
        {
            "task_name": "pairs",
            "task_type": task_type,
            "model": {"name_or_path": str(model)},
            "peft": {"method": "lora", "r": 4, "target_modules": "all-linear"},
            "dataset": {"name": "./sums", "text_columns": ["a", "b"], "max_length": 48, **dataset},
            "training": {"max_steps": 3, "global_batch_size": 8, "learning_rate": 1e-2},
            "evaluation": {"benchmarks": [benchmark], "batch_size": 3},
        },
        "test",
    )


def test_classification_predicts_the_likeliest_class_in_the_order_of_the_rows(workplace: Path, tiny_encoder: Path) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    for path, count in (("sums/train.jsonl", 16), ("sums/test.jsonl", 10)):
        labelled(path, count, lambda i: (i % 3 == 0 and 1) or 0)
    score, lines = scored(head_task(tiny_encoder, "classification", "glue_mrpc", labels=["no", "yes"]))
    examples = score["examples"]
    assert examples["reference"] == [1 if i % 3 == 0 else 0 for i in range(10)]
    assert examples["prediction"] == [int(p[1] > p[0]) for p in examples["probabilities"]]
    assert score["metrics"] == {
        "accuracy": pytest.approx(accuracy_score(examples["reference"], examples["prediction"])),
        "f1": pytest.approx(f1_score(examples["reference"], examples["prediction"], zero_division=0)),
    }
    assert [line["texts"] for line in lines] == [[row["question"], row["answer"]] for row in sums(10)]
    assert all(sum(line["probabilities"]) == pytest.approx(1, abs=1e-5) for line in lines)


def test_regression_trains_and_predicts_numbers(workplace: Path, tiny_encoder: Path) -> None:
    from scipy.stats import pearsonr, spearmanr

    for path, count in (("sums/train.jsonl", 16), ("sums/test.jsonl", 10)):
        labelled(path, count, lambda i: i / 4)
    score, lines = scored(head_task(tiny_encoder, "regression", "glue_stsb"))
    predicted, true = score["examples"]["prediction"], [i / 4 for i in range(10)]
    assert score["examples"]["reference"] == true and len(set(predicted)) > 1
    assert score["metrics"]["pearson"] == pytest.approx(pearsonr(predicted, true).statistic)
    assert score["metrics"]["spearman"] == pytest.approx(spearmanr(predicted, true).statistic)
    assert [line["prediction"] for line in lines] == predicted and score["task_type"] == "regression"


def test_regression_trains_in_half_precision(workplace: Path, tiny_encoder: Path) -> None:
    for path in ("sums/train.jsonl", "sums/test.jsonl"):
        labelled(path, 16, lambda i: i / 4)
    config = head_task(tiny_encoder, "regression", "regression")
    score, _ = scored(config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})}))
    assert score["metrics"]["mean_squared_error"] < 20


def test_rescoring_labels_gives_the_same_metrics(workplace: Path, tiny_encoder: Path) -> None:
    for path, count in (("sums/train.jsonl", 16), ("sums/test.jsonl", 10)):
        labelled(path, count, lambda i: i % 2)
    config = head_task(tiny_encoder, "classification", "classification", labels=["no", "yes"])
    before, _ = scored(config)
    after, _ = scored(config, rescore=True)
    assert (after["metrics"], after["examples"]) == (before["metrics"], before["examples"])
