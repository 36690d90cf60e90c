"""Rows to tokens against TRL's own preparation and batched `datasets.map`:  python benchmarks/tokenizing.py --rows 395000

Rows of GSM8K with their numbers changed, so that no two are alike; each contender makes input ids and the places that
carry loss of the same rows, from the same Parquet file to a file that training reads, in a process of its own,
interleaved and repeated.  The figure is rows per CPU second of that part alone: imports and loading are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders import measured, peak_bytes, without_engines

from lora_ns.store.run import Run

CONTENDERS = ("ours", "datasets.map", "TRL")
PROMPT, RESPONSE = "Question: {question}\nAnswer:", " {answer}"
SPECIALS = ["<pad>", "<unk>", "<s>", "</s>"]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, default=Path("../shared/data/gsm8k/train.jsonl"))
    words.add_argument("--rows", type=int, default=20_000)
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--only", nargs="*", default=CONTENDERS)
    words.add_argument("--contender")
    words.add_argument("--place", type=Path)
    given = words.parse_args()
    if given.contender:
        print(json.dumps(run(given.contender, given.place)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(given, Path(folder))
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
        for repeat in range(given.repeats):
            for name in given.only:
                figures[name].append(last := measured(__file__, name, {"place": folder}))
                said = f"{last['rows'] / last['cpu']:.0f} rows/CPU s, {last['seconds']:.0f} s"
                print(f"{repeat + 1}/{given.repeats} {name:14} {said}", file=sys.stderr)
    print(f"| {given.rows} rows | rows / CPU s, median (range) | ours is × | peak MiB | MB on disk |")
    print("|---|---:|---:|---:|---:|")
    for name, runs in figures.items():
        rates = [one["rows"] / one["cpu"] for one in runs]
        own = [one["rows"] / one["cpu"] for one in figures.get("ours", runs)]
        ratio = statistics.median(a / b for a, b in zip(own, rates, strict=True))
        spread = f"{statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})"
        peak, disk = (statistics.median(one[key] for one in runs) for key in ("peak", "disk"))
        print(f"| {name} | {spread} | {ratio:.2f} | {peak / 2**20:.0f} | {disk / 1e6:.0f} |")


def prepare(given: argparse.Namespace, place: Path) -> None:
    """The rows as the `fetch` stage writes them, a tokenizer, and the smallest model for TRL's trainer; once for all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from lora_ns.data.fetch import fetch
    from lora_ns.store.paths import Store

    rows = [json.loads(line) for line in given.data.read_text().splitlines()] if given.data.is_file() else builtin()
    with (place / "train.jsonl").open("w") as file:
        for number in range(given.rows):
            rng, row = random.Random(number), rows[number % len(rows)]
            file.write(json.dumps({key: varied(row[key], rng) for key in ("question", "answer")}) + "\n")
    train_tokenizer((PROMPT.format(**row) + RESPONSE.format(**row) for row in rows), place / "model")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=32_000, pad_token_id=0, **shape)).save_pretrained(place / "model")
    store = Store(place / "store")
    (place / "rows").symlink_to(fetch(config(place).dataset, store).resolve())


def builtin() -> list[dict[str, Any]]:
    from lora_ns.data.sources.builtin import generate

    return generate("word_problems", {"num_train": 5000})["train"]


def varied(text: str, rng: random.Random) -> str:
    """The text with other numbers."""
    return re.sub(r"\d+", lambda found: str(int(found[0]) + rng.randrange(10)), text)


def train_tokenizer(texts: Any, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=32_000, special_tokens=SPECIALS, show_progress=False))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIALS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)


def config(place: Path) -> Any:
    from lora_ns.config import check

    data = {"name": {"train": str(place / "train.jsonl")}, "eval_size": 1, "prompt_template": PROMPT}
    content = {
        "task_name": "gsm8k", "task_type": "causal_lm", "model": {"name_or_path": str(place / "model")},
        "peft": {"method": "lora"}, "dataset": {**data, "response_template": RESPONSE, "max_length": 1024},
    }  # fmt: skip
    return check(content, "benchmark")


def run(name: str, place: Path) -> dict[str, float]:
    """Rows, CPU seconds, seconds, peak memory (bytes) and bytes on disk of one contender."""
    without_engines()
    with tempfile.TemporaryDirectory(dir=place) as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        contender = {"ours": ours, "datasets.map": mapped, "TRL": trl}[name](place, Path(folder))
        cpu, wall = time.process_time(), time.perf_counter()
        rows = contender()
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - wall
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*.arrow"))
    return {"rows": rows, "cpu": cpu, "seconds": seconds, "peak": peak_bytes(), "disk": disk}


def ours(place: Path, folder: Path) -> Callable[[], int]:
    from lora_ns.data.tokenization import tokenize
    from lora_ns.data.tokenizer import load_tokenizer
    from lora_ns.models.imports import keep_torch_away
    from lora_ns.store.artifact import read_record
    from lora_ns.store.paths import Store

    keep_torch_away()  # as `lora-ns tokenize` does
    settings, store = config(place), Store(folder)
    target = store.rows(settings.dataset)
    target.parent.mkdir(parents=True)
    target.symlink_to((place / "rows").resolve())
    load_tokenizer(settings.model, store)  # what it imports
    return lambda: read_record(tokenize(Run(settings, store)))["ledger"]["train"]["rows_out"]


def mapped(place: Path, folder: Path) -> Callable[[], int]:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    rows = load_dataset("parquet", data_files=str(place / "rows/train.parquet"), split="train")
    for path in folder.rglob("*.arrow"):  # the copy of the rows themselves does not count
        path.rename(path.with_suffix(".rows"))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        prompts = [PROMPT.format(question=question) for question in batch["question"]]
        whole = [p + RESPONSE.format(answer=a) for p, a in zip(prompts, batch["answer"], strict=True)]
        asked, encoded = tokenizer(prompts)["input_ids"], tokenizer(whole)
        ids = [[*each, tokenizer.eos_token_id] for each in encoded["input_ids"]]
        labels = [[-100] * len(head) + each[len(head) :] for head, each in zip(asked, ids, strict=True)]
        return {"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids], "labels": labels}

    return lambda: len(rows.map(encode, batched=True, batch_size=1000, remove_columns=rows.column_names))


def trl(place: Path, folder: Path) -> Callable[[], int]:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    rows = load_dataset("parquet", data_files=str(place / "rows/train.parquet"), split="train")
    rows = rows.map(
        lambda row: {"prompt": PROMPT.format(**row), "completion": RESPONSE.format(**row)}, remove_columns=rows.column_names
    )
    for path in folder.rglob("*.arrow"):
        path.rename(path.with_suffix(".rows"))
    arguments = SFTConfig(output_dir=str(folder), report_to="none", bf16=False, max_length=1024)
    return lambda: len(SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train_dataset)


if __name__ == "__main__":
    main()
