"""Every method of the installed PEFT on tiny models, and every method file through the real stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from method_matrix import MODELS, Outcome, as_markdown, survey
from support import REPOSITORY, causal_task, sums

from lora_ns.config import RunConfig, check, known_methods, read_method, with_method
from lora_ns.config.method_constraints import CANNOT_MERGE, saves_head, why_not_merged
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.errors import ConfigError
from lora_ns.merging import logit_parity
from lora_ns.merging.merge import merge
from lora_ns.models.adapter import load_trained
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training import train as train_stage

METHODS = [method for method in known_methods() if method not in ("none", "full")]
NO_ENCODER = {"adaption_prompt", "cpt", "shadow", "trainable_tokens", "xlora"}

FILES = sorted(path.stem for path in (REPOSITORY / "configs/methods").glob("*.yaml"))
QUANTIZED = {"qlora", "loftq"}  # tests/models/test_quantized.py
VARIANTS = [name for name in FILES if name not in {"none", "full", *QUANTIZED}]
ON_ENCODER = "dora pissa eva corda lora_ga loraplus lora_fa adalora ia3 ln_tuning p_tuning prefix_tuning".split()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Outcome]:
    return {(o.method, o.task_type): o for o in survey(tmp_path_factory.mktemp("survey"))}


@pytest.mark.parametrize("task_type", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_peft_trains_saves_and_reloads_equal(outcomes: Any, method: str, task_type: str) -> None:
    outcome = outcomes[method, task_type]
    if task_type == "classification" and method in NO_ENCODER:
        assert outcome.refused
        return
    assert outcome.refused is None
    assert outcome.changed > 1e-4, "training changed nothing"
    assert outcome.reloaded <= 1e-6
    if task_type == "classification":
        assert outcome.head_saved and saves_head(method)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_merges_exactly_or_is_known_not_to(outcomes: Any, method: str) -> None:
    for outcome in [outcomes[method, task] for task in MODELS if outcomes[method, task].refused is None]:
        if why_not_merged(method) is not None:
            assert outcome.not_merged
        elif method == "beft" and outcome.task_type == "causal_lm":
            assert "no bias" in outcome.not_merged  # a matter of the base model, not of the method
        else:
            assert outcome.merged is not None and outcome.merged <= 1e-4, outcome.not_merged


def test_the_list_of_methods_that_cannot_merge_names_no_other(outcomes: Any) -> None:
    assert set(CANNOT_MERGE) <= {method for (method, _), o in outcomes.items() if o.not_merged}


def test_the_table_in_the_docs_is_what_came_out(outcomes: Any) -> None:
    page = (REPOSITORY / "docs/methods.md").read_text()
    table = as_markdown(list(outcomes.values()))
    assert table in page, "make it again: python docs/method_matrix.py > docs/methods.md"


# -- the method files --------------------------------------------------------------------------------------------------


def task_of(name: str, model: Path, kind: str, **training: Any) -> RunConfig:
    raw = causal_task(model) if kind == "causal_lm" else labelled_task(model)
    raw = with_method(raw, read_method(REPOSITORY / f"configs/methods/{name}.yaml"))
    raw["training"] = {**raw["training"], "max_steps": 3, **training}  # type: ignore[dict-item]
    return check(raw, name)


def labelled_task(model: Path) -> dict[str, Any]:
    rows = [{"text": row["question"], "label": number % 2} for number, row in enumerate(sums(40))]
    Path("rows.jsonl").write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    return {
        "task_name": "odd",
        "task_type": "classification",
        "model": {"name_or_path": str(model)},
        "dataset": {"name": {"train": "rows.jsonl", "test": "rows.jsonl"}, "text_columns": ["text"], "labels": ["a", "b"]},
        "training": {"global_batch_size": 8, "learning_rate": 1e-2},
    }


def trained(config: RunConfig, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[Path, list[Any]]:
    """The adapter's folder, and the logits of the model in memory as it was saved."""
    store, seen = Store(), []
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    if monkeypatch is not None:
        save = train_stage.save_trained

        def save_and_note(model: Any, folder: Path, *more: Any) -> None:
            seen.extend(logit_parity.probe(model.eval(), load_tokenizer(config.model, store)))
            save(model, folder, *more)

        monkeypatch.setattr(train_stage, "save_trained", save_and_note)
    return train_stage.train(Run(config, store), quiet=True), seen


def holds(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, expected = trained(config, monkeypatch)
    store = Store()
    loaded = load_trained(Run(config, store), folder).eval()
    found = logit_parity.probe(loaded, load_tokenizer(config.model, store))
    if why_not_merged(config.peft.method):
        found = [logits[-len(e) :] for logits, e in zip(found, expected, strict=True)]
    assert logit_parity.compare(expected, found)["max_logit_difference"] <= 2e-5
    assert read_record(folder)["parameters"]["trainable"] > 0
    if why_not_merged(config.peft.method):
        with pytest.raises(ConfigError, match="cannot be merged"):
            merge(Run(config, store))
    else:
        assert read_record(merge(Run(config, store)))["parity"]["max_logit_difference"] <= 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_a_method_file_trains_reloads_equal_and_merges(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    holds(task_of(name, tiny_causal, "causal_lm"), monkeypatch)


@pytest.mark.parametrize("name", ON_ENCODER)
def test_a_method_file_trains_a_classifier_too(
    workplace: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    holds(task_of(name, tiny_encoder, "classification"), monkeypatch)


@pytest.mark.parametrize("name", FILES)
def test_a_method_file_says_what_it_is_its_paper_and_when_to_choose_it(name: str) -> None:
    text = (REPOSITORY / f"configs/methods/{name}.yaml").read_text()
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert comment and yaml.safe_load(text)["peft"]["method"]
    if name not in ("none", "full"):
        assert "arXiv" in "\n".join(comment) and len(comment) >= 2


# -- initialisations that look at data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eva", "corda", "lora_ga"])
def test_a_data_driven_start_is_the_same_each_time_and_hangs_on_the_rows(workplace: Path, tiny_causal: Path, name: str) -> None:
    import shutil

    def checksum(**peft: Any) -> str:
        config = task_of(name, tiny_causal, "causal_lm", max_steps=1)
        config = check({**config.model_dump(), "peft": {**config.peft.model_dump(), **peft}}, name)
        folder, _ = trained(config)
        return str(read_record(folder)["outputs"]["adapter_model.safetensors"]["sha256"])

    first = checksum(calibration_rows=16)
    shutil.rmtree("results")
    assert checksum(calibration_rows=16) == first
    assert checksum(calibration_rows=12) != first


def test_the_number_of_calibration_rows_is_in_the_digest(workplace: Path, tiny_causal: Path) -> None:
    names = set()
    for rows in ({}, {"calibration_rows": 64}, {"calibration_rows": 65}):
        peft = {"method": "lora", "init_lora_weights": "eva", **rows}
        names.add(Run(check(causal_task(tiny_causal, peft=peft), "test"), Store()).name)
    assert len(names) == 2  # 64 is what holds where nothing is said


def test_what_was_taken_out_of_the_base_is_saved_as_an_adapter_of_the_base_as_it_is(workplace: Path, tiny_causal: Path) -> None:
    """Also by a randomised start, which PEFT would draw anew at loading."""
    import json

    raw = with_method(causal_task(tiny_causal), read_method(REPOSITORY / "configs/methods/pissa.yaml"))
    raw["peft"]["init_lora_weights"] = "pissa_niter_4"  # type: ignore[index]
    folder, _ = trained(check(raw, "test"))
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["init_lora_weights"], settings["r"], settings["lora_alpha"]) == (True, 16, 16)


# -- optimisers of LoRA's own ------------------------------------------------------------------------------------------


def test_lora_fa_leaves_a_as_it_was_drawn_and_counts_what_it_trains(workplace: Path, tiny_causal: Path) -> None:
    from safetensors.torch import load_file

    plain, _ = trained(task_of("lora", tiny_causal, "causal_lm", max_steps=1))
    half, _ = trained(task_of("lora_fa", tiny_causal, "causal_lm", max_steps=1))
    longer, _ = trained(task_of("lora_fa", tiny_causal, "causal_lm", max_steps=4))
    one, four = (load_file(folder / "adapter_model.safetensors") for folder in (half, longer))
    assert all(one[name].equal(four[name]) for name in one if "lora_A" in name)
    assert not any(one[name].equal(four[name]) for name in one if "lora_B" in name)
    counts = [read_record(folder)["parameters"]["trainable"] for folder in (plain, half)]
    assert counts[1] < counts[0]


def test_loraplus_moves_b_as_many_times_further_as_its_ratio_says(workplace: Path, tiny_causal: Path) -> None:
    """Adam's first step is the learning rate for every weight that has a gradient, whatever its size."""
    from safetensors.torch import load_file

    sizes = {}
    for ratio in (1, 16):
        settings = {"max_steps": 1, "warmup_steps": 0, "optim_args": f"loraplus_lr_ratio={ratio}"}
        folder, _ = trained(task_of("loraplus", tiny_causal, "causal_lm", **settings))
        weights = load_file(folder / "adapter_model.safetensors")
        sizes[ratio] = max(float(w.abs().max()) for name, w in weights.items() if "lora_B" in name)
    assert sizes[16] / sizes[1] == pytest.approx(16, rel=1e-3)


def test_a_setting_that_an_optimiser_lacks_is_refused(workplace: Path, tiny_causal: Path) -> None:
    with pytest.raises(ConfigError, match="has no setting 'ratio'"):
        trained(task_of("loraplus", tiny_causal, "causal_lm", optim_args="ratio=4"))


def test_adaloras_schedule_is_laid_over_the_run(workplace: Path, tiny_causal: Path) -> None:
    import json

    folder, _ = trained(task_of("adalora", tiny_causal, "causal_lm", max_steps=12))
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["total_step"], settings["tinit"], settings["tfinal"]) == (12, 1, 4)
    kept = [sum(ranks) for ranks in settings["rank_pattern"].values()]
    assert sum(kept) == 8 * len(kept), "as many ranks as target_r says, where they matter"
