from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import causal_task, sums, write_config

from lora_ns.config import RunConfig, check, load_config, merge, read_mapping
from lora_ns.config.naming import slug
from lora_ns.config.text_files import replace_text
from lora_ns.errors import ConfigError, DataError, LoraNsError
from lora_ns.store.artifact import atomic_artifact, is_finished
from lora_ns.store.digests import digest_of
from lora_ns.store.evaluation_file import read_checked_evaluation, read_evaluation, write_evaluation_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run


def names(config: RunConfig) -> dict[str, str]:
    """What each artefact of a config is called."""
    store = Store()
    return {
        "rows": store.rows(config.dataset).name,
        "tokens": Run(config, store).tokens.name,
        "adapter": Run(config, store).name,
        "score": Run(config, store).evaluation(config.evaluation.benchmarks[0]).name,
        "merged": Run(config, store).merged.name,
    }


def task(**changes: object) -> RunConfig:
    base = causal_task("builtin:tiny-llama")
    return check(merge(base, changes), "test")


@pytest.mark.parametrize(
    ("change", "renamed"),
    [
        ({"model": {"dtype": "bfloat16"}}, {"adapter", "merged"}),
        ({"peft": {"r": 2}}, {"adapter", "merged"}),
        ({"training": {"learning_rate": 1e-5}}, {"adapter", "merged"}),
        ({"seed": 1}, {"adapter", "merged"}),
        ({"dataset": {"max_samples": 5}}, {"rows", "tokens", "adapter", "merged", "score"}),
        ({"dataset": {"prompt_template": "{question}"}}, {"tokens", "adapter", "merged", "score"}),
        ({"dataset": {"response_template": "{answer}!"}}, {"tokens", "adapter", "merged"}),
        ({"evaluation": {"generation": {"max_new_tokens": 9}}}, {"score"}),
        ({"evaluation": {"sandbox": "unsafe"}}, {"score"}),
        ({"merge": {"dtype": "float16"}}, {"merged"}),
        ({"training": {"logging_steps": 7, "report_to": "tensorboard"}}, set()),
        ({"training": {"per_device_train_batch_size": 2, "dataloader_num_workers": 3}}, set()),
        ({"evaluation": {"batch_size": 3}}, set()),
        ({"training": {"learning_rate": 0.01}}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_digest_covers_what_determines_the_content_and_nothing_else(workplace: Path, change: dict, renamed: set[str]) -> None:
    before, after = names(task()), names(task(**change))
    assert {key for key in before if before[key] != after[key]} == renamed


def test_the_bytes_of_local_files_are_in_the_digest_and_their_place_is_not(workplace: Path) -> None:
    before = names(task())
    (workplace / "sums").rename(workplace / "moved")
    moved = names(task(dataset={"name": "./moved"}))
    assert (moved["rows"].split("-")[-1], moved["adapter"]) == (before["rows"].split("-")[-1], before["adapter"])
    with (workplace / "moved/train.jsonl").open("a") as file:
        file.write(json.dumps(sums(1)[0]) + "\n")
    assert names(task(dataset={"name": "./moved"}))["adapter"] != before["adapter"]


@pytest.mark.parametrize("name", [{"train": "./sums/train.jsonl", "test": "sums/test.jsonl"}, "./sums"], ids=["files", "folder"])
def test_digests_survive_the_loss_of_local_data_and_models_once_a_run_file_was_written(
    workplace: Path, tiny_causal: Path, name: object
) -> None:
    shutil.copytree(tiny_causal, "model")
    config = task(dataset={"name": name}, model={"name_or_path": "./model"})
    before = names(config)
    Run(config, Store()).write_file()
    shutil.rmtree("sums")
    shutil.rmtree("model")
    assert names(config) == before


def test_a_local_file_never_seen_is_a_clear_error(workplace: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file sums/trian\.jsonl\. Did you mean 'train\.jsonl'"):
        names(task(dataset={"name": "sums/trian.jsonl"}))


def test_a_digest_does_not_hang_on_key_order_or_the_process() -> None:
    value = {"b": [1, 2.5, None], "a": {"ü": True}}
    assert digest_of(value) == digest_of(dict(reversed(value.items())))
    code = f"from lora_ns.store.digests import digest_of; print(digest_of({value!r}))"
    other = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=other, check=True)
    assert done.stdout.strip() == digest_of(value)


def test_a_run_file_is_a_config_with_the_same_digest(workplace: Path) -> None:
    config = task(seed=3)
    path = Run(config, Store()).write_file()
    assert path.stem == Run(load_config(path), Store()).name == Run(config, Store()).name


def test_an_evaluation_file_reads_back_equal(workplace: Path) -> None:
    config, store = task(), Store()
    evaluation = Run(config, store).evaluation(config.evaluation.benchmarks[0])
    assert read_evaluation(write_evaluation_file(evaluation, store)) == evaluation


def test_an_edited_evaluation_file_is_refused(workplace: Path) -> None:
    config, store = task(), Store()
    path = write_evaluation_file(Run(config, store).evaluation(config.evaluation.benchmarks[0]), store)
    assert read_checked_evaluation(path, store).name == path.stem
    content = read_mapping(path)
    content["generation"]["max_new_tokens"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="was changed after it was written"):
        read_checked_evaluation(path, store)


def test_generation_settings_are_layered_benchmark_task_entry(workplace: Path) -> None:
    entry = {"name": "gsm8k", "generation": {"max_new_tokens": 5}}
    config = task(evaluation={"benchmarks": [entry], "generation": {"max_new_tokens": 9, "num_beams": 2}})
    generation = Run(config, Store()).evaluation(config.evaluation.benchmarks[0]).generation
    assert (generation.max_new_tokens, generation.num_beams, "Question:" in generation.stop) == (5, 2, True)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "/", "a b;rm -rf", ".hidden", "x" * 300, "ü/ß"])
def test_a_name_from_a_config_never_leaves_its_folder(name: str) -> None:
    part = slug(name)
    assert part and "/" not in part and not part.startswith(".") and len(part) <= 48
    assert Path("/base", part).resolve().parent == Path("/base")


def test_an_artefact_is_sealed_with_checksums_of_its_files(tmp_path: Path) -> None:
    with atomic_artifact(tmp_path / "a") as (folder, notes):
        (folder / "weights").write_text("x")
        assert not (tmp_path / "a").exists()
        notes["stage"] = "test"
    record = json.loads((tmp_path / "a/record.json").read_text())
    assert record["outputs"]["weights"]["bytes"] == 1 and is_finished(tmp_path / "a")


def test_what_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    with atomic_artifact(tmp_path / "a") as (folder, _):
        (folder / "weights").write_text("mine")
        (tmp_path / "a").mkdir()
        (tmp_path / "a/record.json").write_text("theirs")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "record.json"]
    assert (tmp_path / "a/record.json").read_text() == "theirs"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_artifact(tmp_path / "a") as (folder, _):
        (folder / "half").write_text("x")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing_that_counts_and_the_next_sweeps_it(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from lora_ns.store.artifact import atomic_artifact\n"
        f"with atomic_artifact(Path({str(tmp_path / 'a')!r})) as (folder, _):\n"
        "    (folder / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not is_finished(tmp_path / "a") and len(list(tmp_path.iterdir())) == 1
    with atomic_artifact(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_in_the_place_does_not_hinder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with atomic_artifact(tmp_path / "a") as (folder, _):
        (folder / "w").write_text("x")
    assert is_finished(tmp_path / "a")


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LoraNsError, match="cannot write"), atomic_artifact(tmp_path / "file/a"):
        pass


def test_replace_text_leaves_an_equal_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    replace_text(path, "a")
    os.utime(path, (1, 1))
    replace_text(path, "a")
    assert path.stat().st_mtime == 1
    replace_text(path, "b")
    assert (path.read_text(), path.stat().st_mtime > 1) == ("b", True)


def test_written_configs_are_plain_yaml(workplace: Path) -> None:
    path = write_config(workplace / "t.yaml", causal_task("builtin:tiny-llama"))
    run_file = Run(load_config(path), Store()).write_file()
    assert yaml.safe_load(run_file.read_text())["training"]["learning_rate"] == 0.01
