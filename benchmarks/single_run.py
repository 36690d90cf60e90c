"""One run's training loop against Hugging Face Trainer and TRL, on the rows of GSM8K:  python benchmarks/single_run.py

Each contender trains the same LoRA on the same randomly initialised Llama in a process of its own, interleaved and
repeated.  The figure is real tokens (no padding) per CPU second of the loop alone: loading is not counted.

With --by-steps ours and one peer share a process and take their steps in turn, so that whatever else the machine does meets
both alike; memory is not measured then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from contenders import intermediate, measured, peak_bytes, without_engines

from lora_ns.store.run import Run

CONTENDERS = ("ours", "ours, random order", "HF Trainer, random", "HF Trainer, grouped", "TRL", "TRL, packed")
SHARED = ("place", "data", "rows", "steps", "batch")
BESIDE = "ours beside "
PROMPT, RESPONSE = "Question: {question}\nAnswer:", " {answer}"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, default=Path("../shared/data/gsm8k/train.jsonl"))
    words.add_argument("--rows", type=int, default=1200)
    words.add_argument("--steps", type=int, default=30)
    words.add_argument("--batch", type=int, default=4)
    words.add_argument("--hidden", type=int, default=512)
    words.add_argument("--layers", type=int, default=8)
    words.add_argument("--vocabulary", type=int, default=32000)
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--only", nargs="*", default=CONTENDERS)
    words.add_argument("--by-steps", action="store_true")
    words.add_argument("--contender")
    words.add_argument("--place", type=Path)
    given = words.parse_args()
    if given.contender:
        way = run_beside if given.contender.startswith(BESIDE) else run
        print(json.dumps(way(given.contender.removeprefix(BESIDE), given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        given.place = Path(folder)
        prepare(given)
        if given.by_steps:
            compare_by_steps(given)
            return
        figures: dict[str, list[dict[str, Any]]] = {name: [] for name in given.only}
        for repeat in range(given.repeats):
            for name in given.only:
                figures[name].append(measured(__file__, name, {key: getattr(given, key) for key in SHARED}))
                last = figures[name][-1]
                print(f"{repeat + 1}/{given.repeats} {name:22} {last['tokens'] / last['cpu']:8.0f} tokens/CPU s", file=sys.stderr)
    baseline = "HF Trainer, random"
    print(f"| loop | real tokens / CPU s, median (range) | × {baseline} | peak MiB |\n|---|---:|---:|---:|")
    for name, runs in figures.items():
        rates = [one["tokens"] / one["cpu"] for one in runs]
        against = [one["tokens"] / one["cpu"] for one in figures.get(baseline, runs)]
        ratio = statistics.median(a / b for a, b in zip(rates, against, strict=True))
        peak = statistics.median(one["peak"] for one in runs) / 2**20
        print(f"| {name} | {statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f}) | {ratio:.2f} | {peak:.0f} |")


def compare_by_steps(given: argparse.Namespace) -> None:
    """Ours against each peer, step by step."""
    shared = {key: getattr(given, key) for key in SHARED}
    print("| peer | ours, tokens / CPU s | peer | ours / peer, median (range) |\n|---|---:|---:|---:|")
    for name in given.only:
        if name == "ours":
            continue
        pairs = [measured(__file__, BESIDE + name, shared)["rates"] for _ in range(given.repeats)]
        ours, peer = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = [a / b for a, b in pairs]
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        print(f"| {name} | {ours:.0f} | {peer:.0f} | {statistics.median(ratios):.2f} ({spread}) |", flush=True)


def prepare(given: argparse.Namespace) -> None:
    """Tokenizer and model, once for all."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    lines = [json.loads(line) for line in given.data.read_text().splitlines()]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    specials = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=specials, show_progress=False)
    core.train_from_iterator((PROMPT.format(**row) + RESPONSE.format(**row) for row in lines), trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(given.place / "model")
    torch.manual_seed(0)
    heads = given.hidden // 64
    shape = LlamaConfig(
        vocab_size=given.vocabulary, hidden_size=given.hidden, intermediate_size=intermediate(given.hidden),
        num_hidden_layers=given.layers, num_attention_heads=heads, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(given.place / "model")


def run(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens, CPU seconds, seconds and peak memory (bytes) of one contender's loop."""
    without_engines()
    trainer, tokens = made(name, given)
    started, wall = time.process_time(), time.perf_counter()
    trainer.train()
    cpu, seconds = time.process_time() - started, time.perf_counter() - wall
    return {"tokens": tokens(), "cpu": cpu, "seconds": seconds, "peak": peak_bytes()}


def made(name: str, given: argparse.Namespace) -> Any:
    """A contender's trainer, and what tells how many tokens it has seen."""
    contender = {"ours": ours, "HF": hugging_face, "TRL": trl}[name.split(",")[0].split()[0]]
    return contender(name, given)


def run_beside(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens per CPU second of our steps and of a peer's, one of each in turn."""
    import torch
    from transformers import TrainerCallback

    without_engines()
    pair = [made("ours", given), made(name, given)]
    spent, ended, turns = [0.0, 0.0], [False, False], threading.Condition()
    whose = 0

    class InTurn(TrainerCallback):
        def __init__(self, number: int):
            self.number = number

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            with turns:
                turns.wait_for(lambda: whose == self.number or ended[1 - self.number])
            # ours asks for them, the peer does not
            torch.use_deterministic_algorithms(self.number == 0, warn_only=True)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            nonlocal whose
            with turns:
                whose = 1 - self.number
                turns.notify_all()

    def train(number: int) -> None:
        began = time.thread_time()
        try:
            pair[number][0].train()
            spent[number] = time.thread_time() - began
        finally:
            with turns:
                ended[number] = True
                turns.notify_all()

    for number, (trainer, _) in enumerate(pair):
        trainer.add_callback(InTurn(number))
    threads = [threading.Thread(target=train, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(spent):
        sys.exit("a training ended before its time")  # with its reason above
    return {"rates": [tokens() / seconds for (_, tokens), seconds in zip(pair, spent, strict=True)]}


def ours(name: str, given: argparse.Namespace) -> Any:
    from lora_ns.config import check
    from lora_ns.data.fetch import fetch
    from lora_ns.data.tokenization import tokenize
    from lora_ns.store.paths import Store
    from lora_ns.training.setup import prepare
    from lora_ns.training.signals import Interruption

    strategy = "random" if "random" in name else "group_by_length"
    content = {
        "task_name": "gsm8k", "task_type": "causal_lm", "model": {"name_or_path": str(given.place / "model")},
        "peft": {"method": "lora", "r": 32, "lora_alpha": 64, "target_modules": "all-linear", "lora_dropout": 0.0},
        "dataset": {"name": {"train": str(given.data.resolve())}, "prompt_template": PROMPT, "response_template": RESPONSE,
                    "max_samples": given.rows},
        "training": {"max_steps": given.steps, "global_batch_size": given.batch, "learning_rate": 1e-4,
                     "per_device_train_batch_size": given.batch, "train_sampling_strategy": strategy},
    }  # fmt: skip
    config, store = check(content, "benchmark"), Store(given.place / f"store-{os.getpid()}")
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    run = prepare(Run(config, store), Interruption(), per_device=given.batch, quiet=True)

    def tokens() -> int:
        return int(sum(run.rows.lengths[batch].sum() for batch in run.batches.steps(given.steps)))

    return run.trainer, tokens


def _lora(given: argparse.Namespace) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(given.place / "model", dtype=torch.float32)
    adapter = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, adapter)


def _rows(given: argparse.Namespace, tokenizer: Any) -> Any:
    """The same rows as ours, tokenised with labels on the response."""
    import random

    lines = [json.loads(line) for line in given.data.read_text().splitlines()]
    chosen = random.Random(0).sample(lines, given.rows)
    examples = []
    for row in chosen:
        prompt = tokenizer(PROMPT.format(**row))["input_ids"]
        ids = [*tokenizer(PROMPT.format(**row) + RESPONSE.format(**row))["input_ids"], tokenizer.eos_token_id]
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        examples.append({"input_ids": ids, "labels": labels, "length": len(ids)})
    from datasets import Dataset

    return Dataset.from_list(examples)


def hugging_face(name: str, given: argparse.Namespace) -> Any:
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(given.place / "model")
    rows = _rows(given, tokenizer)
    seen = [0]
    pad = DataCollatorForSeq2Seq(tokenizer)

    def collate(examples: list[dict[str, Any]]) -> Any:
        seen[0] += sum(example.pop("length") for example in examples)
        return pad(examples)

    arguments = TrainingArguments(
        output_dir=str(given.place / "hf"), max_steps=given.steps, per_device_train_batch_size=given.batch,
        learning_rate=1e-4, save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True,
        remove_unused_columns=False, train_sampling_strategy="group_by_length" if "grouped" in name else "random",
    )  # fmt: skip
    trainer = Trainer(model=_lora(given), args=arguments, train_dataset=rows, data_collator=collate)
    return trainer, lambda: seen[0]


def trl(name: str, given: argparse.Namespace) -> Any:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(given.place / "model")
    rows = _rows(given, tokenizer).remove_columns("length")
    packed = {"packing": True, "max_length": 1024} if "packed" in name else {}
    arguments = SFTConfig(
        output_dir=str(given.place / "trl"), max_steps=given.steps, per_device_train_batch_size=1 if packed else given.batch,
        learning_rate=1e-4, save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True, bf16=False, **packed,
    )  # fmt: skip
    trainer = SFTTrainer(model=_lora(given), args=arguments, train_dataset=rows, processing_class=tokenizer)
    return trainer, lambda: trainer.state.num_input_tokens_seen or trainer._total_train_tokens


if __name__ == "__main__":
    main()
