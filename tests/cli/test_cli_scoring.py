"""The verbs that judge without a model, as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import causal_task, lora_ns, write_config

from lora_ns.benchmarks.sandbox.tiers import unavailable
from lora_ns.store.local_files import sha256_file
from lora_ns.store.record import sealed

needs_sandbox = pytest.mark.skipif(
    bool(unavailable("bubblewrap") and unavailable("landlock")), reason="no sandbox on this machine"
)

LINES = [
    {"completion": "9 * 2 = $18.\n#### 18", "reference": "… #### 18", "id": 7},
    {"completion": "#### 17", "reference": 18},
    {"completion": "no idea", "reference": "18"},
]


def write(lines: list[object], path: Path) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


def test_score_prints_the_same_lines_with_what_was_read_and_whether_it_is_right(tmp_path: Path) -> None:
    done = lora_ns("score", write([LINES[0], "", *LINES[1:]], tmp_path / "a.jsonl"), "--scorer", "gsm8k_official")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {**LINES[0], "parsed": "18", "correct": True},
        {**LINES[1], "parsed": "17", "correct": False},
        {**LINES[2], "parsed": None, "correct": False},
    ]
    assert "1 of 3 right" in done.stderr


def test_score_reads_any_text_and_number_that_json_holds(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [{"completion": f"a{mark}b #### 18", "reference": 18.0} for mark in ("\u2028", "\x85", "é")]
    broken = '{"completion": "\\ud800 #### 18", "reference": "18"}'
    text = "\n".join([*(json.dumps(line, ensure_ascii=False) for line in lines), broken])
    file.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n")
    for name in (str(file), "-"):
        done = subprocess.run(
            [sys.executable, "-m", "lora_ns", "score", name, "--scorer", "gsm8k_flexible"],
            input=file.read_bytes(), capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        printed = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
        assert [line["completion"] for line in printed] == [*(line["completion"] for line in lines), "\ud800 #### 18"]
        assert all(line["correct"] for line in printed)


def test_score_takes_the_options_of_a_scorer(tmp_path: Path) -> None:
    file = write([{"completion": "It is Rome, is Paris.", "reference": "Rome"}], tmp_path / "a.jsonl")
    done = lora_ns("score", file, "--scorer", "regex", "--option", r"pattern=is (\w+)", "--option", "which=first")
    assert json.loads(done.stdout)["correct"] is True, done.stderr


@pytest.mark.parametrize(
    ("lines", "words", "expected"),
    [
        ([LINES[0], "{", "[1]"], [], "line 2: not valid JSON (Expecting property name enclosed in double quotes"),
        ([LINES[0], "{", "[1]"], [], "line 3: expected an object, found list"),
        ([{"reference": "1"}, {"completion": "1"}], [], "line 1: has no `completion`; line 2: has no `reference`"),
        ([{"completion": 1, "reference": "1"}], [], "line 1: `completion` is no text"),
        ([{"completion": "1", "reference": True}], [], "line 1: `reference` is neither text nor number"),
        (['{"completion": "1", "reference": NaN}'], [], "line 1: `reference` is neither text nor number"),
        (['{"completion": "1", "reference": 1' + "0" * 5000 + "}"], [], "line 1: not valid JSON (Exceeds the limit"),
        ([], [], "the file holds no lines"),
        (LINES, ["--scorer", "gsm8k_ofical"], "Did you mean 'gsm8k_official'?"),
        (LINES, ["--scorer", "regex"], "needs `pattern`"),
        (LINES, ["--option", "pattern=x"], "takes no options"),
    ],
)
def test_wrong_lines_and_names_are_named_and_nothing_is_printed(
    tmp_path: Path, lines: list[object], words: list[str], expected: str
) -> None:
    done = lora_ns("score", write(lines, tmp_path / "a.jsonl"), "--scorer", "gsm8k_official", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert expected in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


@needs_sandbox
def test_sandbox_check_tells_tier_versions_attacks_and_golds(tmp_path: Path) -> None:
    rows = [
        {"task_id": 1, "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"], "test_setup_code": ""},
        {"task_id": 2, "code": "def f(x):\n    return 2", "test_list": ["assert f(1) == 1"], "test_setup_code": ""},
    ]
    good = lora_ns("sandbox-check", "--json", "--golds", write(rows[:1], tmp_path / "mbpp.jsonl"))
    report = json.loads(good.stdout)
    assert good.returncode == 0 and report["tier"] in ("bubblewrap", "landlock")
    assert set(report["attacks"].values()) == {"blocked"} and report["versions"]["python"]
    assert (report["golds"]["total"], report["golds"]["passed"], report["golds"]["failed"]) == (1, 1, [])
    bad = lora_ns("sandbox-check", "--golds", write(rows, tmp_path / "mbpp.jsonl"))
    assert bad.returncode == 1 and "mbpp/2: wrong, f(1) is 2, not 1" in bad.stdout
    assert "gold solutions do not pass in the sandbox" in bad.stderr


def test_rescore_judges_again_what_evaluate_kept(workplace: Path, tiny_causal: Path) -> None:
    task = {**causal_task(tiny_causal), "peft": {"method": "none"}}
    config = str(write_config(workplace / "task.yaml", task))
    first = lora_ns("evaluate", "--config", config)
    assert first.returncode == 0, first.stderr
    score = Path(first.stdout.splitlines()[0])
    kept = Path(str(score).replace("scores", "predictions")).with_suffix(".jsonl")
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    kept.write_text("".join(json.dumps({**line, "completions": [line["reference"]]}) + "\n" for line in lines))
    edited = lora_ns("evaluate", "--config", config, "--rescore")
    assert edited.returncode == 1 and "are not those that it was counted from" in " ".join(edited.stderr.split())
    content = json.loads(score.read_text())
    content["outputs"]["predictions"]["sha256"] = sha256_file(kept)  # as if the model had answered so
    score.write_text(json.dumps(sealed(content)))
    again = lora_ns("evaluate", "--config", config, "--rescore")
    assert again.returncode == 0, again.stderr
    assert "gsm8k_official  1.0000" in again.stdout and json.loads(score.read_text())["rescored_from"] == score.stem
    kept.unlink()
    gone = lora_ns("evaluate", "--config", config, "--rescore")
    assert gone.returncode == 1 and "Evaluate without --rescore" in " ".join(gone.stderr.split())
