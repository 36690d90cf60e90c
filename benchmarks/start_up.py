"""What passes before anything computes:  python benchmarks/start_up.py

Verbs that only look, on the demo and on experiments of 10, 100, 1,000 and 5,000 runs; then Snakemake's dry run of these,
each with a job for every training and every evaluation (`plain`) and as the workflow packs them (`packed`), against a
Snakefile that has rules of the same shape and nothing else (`bare`).  Interleaved and repeated; wall seconds, medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[1]
BARE = """
RUNS = [f"run-{{n}}" for n in range({runs})]

rule all:
    input: "tables.json"

rule fetch:
    output: "rows.json"
    shell: "true"

rule pretrain:
    output: "model.json"
    shell: "true"

rule tokenize:
    input: "rows.json", "model.json"
    output: "tokens.json"
    shell: "true"

rule train:
    input: "tokens.json", "model.json"
    output: "adapters/{{run}}/record.json"
    shell: "true"

rule evaluate:
    input: "adapters/{{run}}/record.json", "rows.json"
    output: "scores/{{run}}.json"
    shell: "true"

rule tables:
    input: expand("scores/{{run}}.json", run=RUNS)
    output: "tables.json"
    shell: "true"
"""


def seconds(words: list[str], folder: Path) -> float:
    """Wall time of a command."""
    began = time.monotonic()
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def project(folder: Path) -> Path:
    """A folder that runs this repository's workflow on results of its own."""
    folder.mkdir()
    for name in ("configs", "profiles", "workflow", "Snakefile", "environment.yml", "requirements.lock"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def experiment(folder: Path, runs: int, sweep: dict[str, object]) -> str:
    """The file of an experiment of one task, one method and so many seeds."""
    content = {
        "name": "many",
        "tasks": ["configs/demo/word_problems.yaml"],
        "methods": ["configs/methods/lora.yaml"],
        "seeds": list(range(runs)),
        "sweep": sweep,
    }
    (folder / "many.yaml").write_text(json.dumps(content))
    return "experiment=many.yaml"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=int, nargs="*", default=[10, 100, 1000, 5000])
    words.add_argument("--repeats", type=int, default=3)
    given = words.parse_args()
    dry = [str(BIN / "snakemake"), "--cores", "2", "--dry-run", "--quiet", "all"]
    with tempfile.TemporaryDirectory() as place:
        here = project(Path(place) / "ours")
        demo = "configs/experiments/demo.yaml"
        looking = [["--help"], ["validate", demo], ["plan", demo], ["status", demo]]
        for runs in given.runs:
            file = f"of_{runs}.yaml"
            (here / experiment(here, runs, {}).removeprefix("experiment=")).rename(here / file)
            looking += [["validate", file], ["plan", file], ["status", file]]
        for verb in looking:
            if verb[0] == "plan":
                seconds([str(BIN / "lora-ns"), *verb], here)  # predicts, once
            found = [seconds([str(BIN / "lora-ns"), *verb], here) for _ in range(given.repeats)]
            print(f"lora-ns {' '.join(verb):45s} {statistics.median(found):6.2f} s", flush=True)
        for runs in given.runs:
            bare = Path(place) / f"bare-{runs}"
            bare.mkdir()
            (bare / "Snakefile").write_text(BARE.format(runs=runs))
            figures: dict[str, list[float]] = {"bare": [], "plain": [], "packed": []}
            for _ in range(given.repeats if runs < 5000 else 1):
                figures["bare"].append(seconds(dry, bare))
                for shape, sweep in {"plain": {"fuse": "never", "in_turn": 1}, "packed": {}}.items():
                    config = experiment(here, runs, dict(sweep))
                    figures[shape].append(seconds([*dry, "--config", config], here))
                    shutil.rmtree(here / ".snakemake", ignore_errors=True)
            median = {shape: statistics.median(found) for shape, found in figures.items()}
            said = "   ".join(f"{shape} {value:6.2f} s" for shape, value in median.items())
            print(f"dry run, {runs:5d} runs   {said}   plain/bare {median['plain'] / median['bare']:.2f}", flush=True)


if __name__ == "__main__":
    main()
