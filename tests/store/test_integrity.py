"""A damaged artefact is found by the next stage that reads it, named, and not used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import evaluate, lora_ns

from lora_ns.config import load_config
from lora_ns.data.tokenization import tokenize
from lora_ns.errors import DamagedError
from lora_ns.experiment.study import load_experiment
from lora_ns.merging.merge import merge
from lora_ns.reporting.make_tables import tables
from lora_ns.store import environment, record
from lora_ns.store.environment import code_state
from lora_ns.store.integrity import faults, load_verified, load_verified_score
from lora_ns.store.paths import PROTOCOL, Store
from lora_ns.store.record import Meter, sealed
from lora_ns.store.run import Run
from lora_ns.training.train import train


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def run(study: Path) -> Run:
    """The first run of the study; its name is that of its artefacts."""
    return load_experiment(Path("experiment.yaml")).runs[0]


@pytest.fixture
def store() -> Store:
    return Store()


def test_every_artefact_of_a_finished_study_is_intact(study: Path) -> None:
    folders = [*study.glob("data/*/*"), *study.glob("results/adapters/*")]
    assert len(folders) == 6 and not [fault for folder in folders for fault in faults(folder)]
    for path in study.glob("results/scores/*/*.json"):
        assert load_verified_score(path)["metrics"]


def test_one_flipped_bit_of_an_adapter_is_named_and_no_score_comes_of_it(run: Run, store: Store) -> None:
    score = run.scores[0]
    score.unlink()
    flip_one_bit(store.adapter(run.name) / "adapter_model.safetensors")
    with pytest.raises(DamagedError, match=rf"{run.name} is damaged: adapter_model\.safetensors has sha256"):
        evaluate(Run(run.config, store), run.evaluations[0], quiet=True)
    with pytest.raises(DamagedError, match="adapter_model"):
        merge(Run(run.config, store))
    assert not score.exists() and not list(Path("results").glob("merged/*"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_truncated_parquet_is_named_and_neither_tokens_nor_scores_come_of_it(run: Run, store: Store, split: str) -> None:
    path = store.rows(run.config.dataset) / f"{split}.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    run.scores[0].unlink()
    with pytest.raises(DamagedError, match=rf"{split}\.parquet has \d+ bytes, its record says"):
        evaluate(Run(run.config, store), run.evaluations[0], quiet=True)
    shutil.rmtree(Run(run.config, store).tokens)
    with pytest.raises(DamagedError, match=rf"{split}\.parquet"):
        tokenize(Run(run.config, store))
    assert not run.scores[0].exists() and not Run(run.config, store).tokens.exists()


def test_damaged_tokens_are_not_trained_on(run: Run, store: Store) -> None:
    shutil.rmtree(store.adapter(run.name))
    flip_one_bit(Run(run.config, store).tokens / "train.arrow")
    with pytest.raises(DamagedError, match=r"train\.arrow has sha256"):
        train(Run(run.config, store), quiet=True)
    assert not store.adapter(run.name).exists()


def test_every_record_says_its_stages_protocol(study: Path) -> None:
    records = [*study.glob("data/*/*/record.json"), *study.glob("results/adapters/*/record.json")]
    for path in [*records, *study.glob("results/scores/*/*.json"), *study.glob("results/tables/*/record-*.json")]:
        content = json.loads(path.read_text())
        assert content["protocol"] == PROTOCOL[content["stage"]]


def test_an_edited_score_is_named_and_no_table_is_made_of_it(run: Run, store: Store) -> None:
    content = json.loads(run.scores[0].read_text())
    content["metrics"][content["main_metric"]] += 0.1
    run.scores[0].write_text(json.dumps(content, indent=1))
    before = Path("results/tables/sums/main.csv").read_bytes()
    with pytest.raises(DamagedError, match=rf"{run.scores[0].name} was changed after it was written"):
        tables(load_experiment(Path("experiment.yaml"), store), store)
    assert Path("results/tables/sums/main.csv").read_bytes() == before


def test_a_number_that_is_none_is_a_fault_and_no_crash(run: Run, store: Store) -> None:
    content = json.loads(run.scores[0].read_text())
    content["metrics"][content["main_metric"]] = float("nan")
    run.scores[0].write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="NaN in place of a number"):
        load_verified_score(run.scores[0])
    for words in (["verify", "--stored"], ["tables", "experiment.yaml"]):
        done = lora_ns(*words)
        assert done.returncode == 1 and "NaN in place" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["main.md", "main.tex", "tables.json", "values.csv"])
def test_an_edited_table_and_a_lost_score_of_it_are_found(run: Run, study: Path, name: str) -> None:
    table = study / "results/tables/sums" / name
    table.write_text(table.read_text().replace("0.0", "9.9").replace("lora,", "lore,"))
    done = lora_ns("verify", "--stored")
    assert done.returncode == 1 and f"results/tables/sums/{name} was changed after it was made" in done.stderr
    run.scores[0].unlink()
    done = lora_ns("verify", "--stored")
    assert done.returncode == 1 and f"{run.scores[0]}, which they are made from, is missing" in done.stderr


def test_the_record_names_the_commit_that_the_work_began_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "src/lora_ns/store/environment.py"))
    head = "at the start"
    monkeypatch.setattr(environment, "git_output", lambda *words: head)
    code_state.cache_clear()
    try:
        meter = Meter()
        head = "while it trained"
        assert record.describe("train", "0", {}, {}, meter=meter)["code"]["commit"] == "at the start"
    finally:
        code_state.cache_clear()


def test_a_score_under_another_runs_name_is_found(study: Path) -> None:
    first, second = sorted(study.glob("results/scores/*/*.json"))[:2]
    shutil.copy(first, second)
    with pytest.raises(DamagedError, match=f"it is the score of {first.parent.name}"):
        load_verified_score(second)


def test_an_adapter_without_its_record_is_missing_to_every_stage(run: Run, store: Store) -> None:
    (store.adapter(run.name) / "record.json").unlink()
    run.scores[0].unlink()
    assert faults(store.adapter(run.name)) == ["record.json is missing"]
    done = lora_ns("verify", "--stored")
    assert done.returncode == 1 and f"{run.name}: record.json is missing" in done.stderr


def test_an_edited_record_and_a_foreign_file_are_found(run: Run, store: Store) -> None:
    folder = store.adapter(run.name)
    (folder / "adapter_model.bin").write_bytes(b"from elsewhere")
    assert faults(folder) == ["adapter_model.bin is not of it"]
    (folder / "adapter_model.bin").rename(folder / ".left_by_the_system")
    assert faults(folder) == []
    content = json.loads((folder / "record.json").read_text())
    content["config"]["seed"] = 7
    (folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=r"record\.json was changed after it was written"):
        load_verified(folder)


def test_an_adapter_moved_to_another_runs_place_is_found(study: Path) -> None:
    first, second = sorted(study.glob("results/adapters/*"))[:2]
    shutil.rmtree(second)
    first.rename(second)
    assert "that of another artefact" in faults(second)[0]


def test_a_seal_does_not_hang_on_the_layout_of_the_file() -> None:
    content = {"a": [1, 2.5, None, "ü"], "b": {"1": True}}
    again = json.loads(json.dumps(sealed(content), indent=7, sort_keys=True, ensure_ascii=True))
    assert sealed(again) == sealed(content) != sealed({**content, "a": [1, 2.5, None, "u"]})


def test_operations_that_cannot_be_deterministic_are_named_and_other_warnings_pass() -> None:
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    meter = Meter()
    try:
        with pytest.warns(UserWarning, match="another"), meter.part("x"):
            import warnings

            for _ in range(2):  # put_ without accumulate is one of the few on a CPU
                torch.zeros(4).put_(torch.tensor([0, 1]), torch.ones(2))
            warnings.warn("another", UserWarning, stacklevel=1)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    assert meter.not_deterministic == ["put_"]


def test_a_record_names_lock_versions_machine_and_what_was_not_deterministic(run: Run, store: Store) -> None:
    record = load_verified(store.adapter(run.name))
    assert len(record["code"]["lock_sha256"]) == 64 and record["packages"]["torch"]
    assert record["circumstances"]["not_deterministic"] == []
    assert record["circumstances"]["hardware"]["threads"] == 1
    assert load_config(store.run_file(run.name)).seed == record["config"]["seed"]
