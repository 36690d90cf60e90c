"""Broken input of every kind, each through the real command line: its own message, its exit status, never a traceback.

A case is a YAML file in a folder named for its verb:

call      what follows `lora-ns`
status    2 for wrong input, 1 for a failure
says      what stands on stderr, in this order (line ends and spaces apart)
files     path -> text, or bytes (!!binary), or null to remove it, or {link: target}, or {folder: true}
task      settings laid over task.yaml;  labelled: over labelled.yaml;  experiment: over experiment.yaml
times     file -> how often it is written, one after the other

In all of it {run} is a run of the finished study, {score} its score file, {model} and {encoder} the tiny models' folders.

The current folder is a copy of a finished study: task.yaml (sums/train.jsonl, test.jsonl), lora.yaml, prompt.yaml,
experiment.yaml and its results; and labelled.yaml, a classification of notes/train.jsonl, test.jsonl.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import write_config

from lora_ns.cli import main
from lora_ns.config import expand_dotted, merge, read_mapping

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("*/*.yaml"))
VERBS = "evaluate fetch import infer merge plan score tables tokenize trace train validate verify".split()
NOTES = [{"note": f"{word} number {i}", "mood": mood} for i in range(12) for word, mood in (("good", "glad"), ("bad", "sad"))]


@pytest.fixture
def place(study: Path, tiny_causal: Path, tiny_encoder: Path) -> dict[str, str]:
    """What a case may speak of, in a study of its own."""
    for split, rows in {"train": NOTES, "test": NOTES[:8]}.items():
        _write(study / "notes" / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    labelled = {
        "task_name": "notes",
        "task_type": "classification",
        "model": {"name_or_path": str(tiny_encoder)},
        "dataset": {"name": "./notes", "text_columns": ["note"], "label_column": "mood", "labels": ["glad", "sad"]},
        "training": {"max_steps": 2, "global_batch_size": 4},
        "evaluation": {"benchmarks": ["classification"]},
    }
    write_config(study / "labelled.yaml", labelled)
    score = next(study.glob("results/scores/*-lora-s0-*/*.json")).relative_to(study)
    models = {"model": str(tiny_causal), "encoder": str(tiny_encoder)}
    return {"run": score.parent.name, "score": str(score), "long_text": "word " * 300, **models}


def _write(path: Path, content: Any) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict) and "link" in content:
        path.symlink_to(content["link"])
    elif isinstance(content, dict):
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _filled(text: str, place: dict[str, str]) -> str:
    for name, value in place.items():
        text = text.replace("{" + name + "}", value)
    return text


def _set_up(case: dict[str, Any]) -> None:
    for name in ("task", "labelled", "experiment"):
        if name in case:
            path = Path(f"{name}.yaml")
            write_config(path, merge(read_mapping(path), expand_dotted(case[name])))
    for name, content in case.get("files", {}).items():
        _write(Path(name), content)
    for name, times in case.get("times", {}).items():
        Path(name).write_text(Path(name).read_text() * times)


def _called(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["lora-ns", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_broken_input_gives_its_own_message(
    path: Path, place: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = yaml.safe_load(_filled(path.read_text(encoding="utf-8"), place))
    _set_up(case)
    before = {file for file in Path("results").rglob("record.json") if file.is_file()}
    status = _called(shlex.split(case["call"]), monkeypatch)
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert status == case["status"], said
    expected = case["says"] if isinstance(case["says"], list) else [case["says"]]
    at = 0
    for part in (" ".join(part.split()) for part in expected):
        assert part in said[at:], f"expected: {part}\nfound:    {said}"
        at = said.index(part, at) + len(part)
    assert "Traceback" not in said
    assert not [name for _, _, names in os.walk(".") for name in names if ".tmp-" in name]
    made = {file for file in Path("results").rglob("record.json") if file.is_file()} - before
    assert not made or case.get("makes"), "nothing half-made looks finished"


def test_the_cases_are_many_and_of_every_verb() -> None:
    assert len(CASES) >= 60
    assert {path.parent.name for path in CASES} == set(VERBS)
    for path in CASES:
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["call"].split()[0] == path.parent.name, path
