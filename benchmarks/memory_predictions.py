"""Memory of training: what `lora-ns plan` predicts against what the train stage takes.

python benchmarks/memory_predictions.py [--only SHAPE:METHOD …] [--json FILE]      a table on stdout, minutes on one core

Each case is a real run of the train stage (two steps, rows all of the greatest length) on random weights of its shape, in
a process of its own.  Measured: the peak of resident memory while it trains, above what the process held before the stage
began (interpreter, libraries, and what a first tiny training loads).  Predicted: as `plan` does, without that base.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lora_ns.models.imports import prepare_imports
from lora_ns.store.environment import hardware, package_versions
from lora_ns.store.run import Run

prepare_imports()

import psutil  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402

from lora_ns.config import RunConfig, check  # noqa: E402
from lora_ns.store.artifact import read_record  # noqa: E402
from lora_ns.store.paths import Store  # noqa: E402
from lora_ns.training.train import train  # noqa: E402
from lora_ns.workflow.pipeline import make_tokens  # noqa: E402
from lora_ns.workflow.planning import memory  # noqa: E402
from lora_ns.workflow.planning.devices import PROCESSOR  # noqa: E402
from lora_ns.workflow.planning.estimator import Estimator  # noqa: E402
from lora_ns.workflow.planning.workload import workload_of  # noqa: E402

MEBIBYTE = 2**20
SHAPES: dict[str, dict[str, Any]] = {
    "llama_wide": {
        "class": "LlamaForCausalLM",
        "config": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 12},
        "vocab": 8000,
        "batch": 4,
        "length": 192,
    },
    "llama_deep": {
        "class": "LlamaForCausalLM",
        "config": {"hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 14, "num_attention_heads": 5},
        "vocab": 4000,
        "batch": 4,
        "length": 320,
    },
    "llama_large_vocabulary": {
        "class": "LlamaForCausalLM",
        "config": {
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        "vocab": 60000,
        "batch": 4,
        "length": 192,
    },
    "gpt2": {
        "class": "GPT2LMHeadModel",
        "config": {"n_embd": 512, "n_layer": 8, "n_head": 8, "n_positions": 1024},
        "vocab": 16000,
        "batch": 4,
        "length": 256,
    },
    "gpt_neox_long": {
        "class": "GPTNeoXForCausalLM",
        "config": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8},
        "vocab": 10000,
        "batch": 2,
        "length": 768,
    },
    "bert_classifier": {
        "class": "BertForSequenceClassification",
        "config": {"hidden_size": 576, "intermediate_size": 2304, "num_hidden_layers": 8, "num_attention_heads": 9},
        "vocab": 20000,
        "batch": 8,
        "length": 128,
    },
}
LORA = {"method": "lora", "r": 16, "target_modules": "all-linear"}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"peft": LORA},
    "lora_checkpointing": {"peft": LORA, "training": {"gradient_checkpointing": True}},
    "prefix_tuning": {"peft": {"method": "prefix_tuning", "num_virtual_tokens": 16}},
    "full": {"peft": {"method": "full"}},
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WARMING = {
    "warm_lm": {"class": "LlamaForCausalLM", "config": TINY, "vocab": 3100, "batch": 2, "length": 32},
    "warm_classifier": {"class": "BertForSequenceClassification", "config": TINY, "vocab": 3100, "batch": 2, "length": 32},
}
"""Trained first, so that what libraries load at their first step is no part of any case."""


def write_case(folder: Path, name: str) -> None:
    """Model, tokenizer (words are numbers) and rows of a shape, where they are missing."""
    shape = (SHAPES | WARMING)[name]
    if (folder / f"model-{name}").exists():
        return
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {str(n): n + 4 for n in range(shape["vocab"] - 4)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **specials)
    tokenizer.save_pretrained(folder / f"model-{name}")
    kind = getattr(transformers, shape["class"])
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    kind(kind.config_class(vocab_size=shape["vocab"], **ids, **shape["config"])).save_pretrained(folder / f"model-{name}")
    rows = folder / f"rows-{name}"
    rows.mkdir()
    rng = random.Random(0)
    for split in ("train", "test"):
        with (rows / f"{split}.jsonl").open("w") as file:
            for _ in range(2 * shape["batch"]):
                numbers = [str(rng.randrange(3000)) for _ in range(shape["length"] - 2)]
                half = len(numbers) // 2
                row = {"q": " ".join(numbers[:half]), "a": " ".join(numbers[half:]), "all": " ".join(numbers)}
                file.write(json.dumps({**row, "label": rng.randrange(2)}) + "\n")


def config_of(folder: Path, name: str, method: str) -> RunConfig:
    """The run of one case."""
    shape = (SHAPES | WARMING)[name]
    classifies = shape["class"].endswith("Classification")
    data: dict[str, Any] = {"name": str(folder / f"rows-{name}"), "max_length": shape["length"]}
    wording = {"prompt_template": "{q} ", "response_template": "{a}"}
    reading = {"text_columns": ["all"], "label_column": "label", "labels": ["no", "yes"]}
    batch = {"global_batch_size": shape["batch"], "per_device_train_batch_size": shape["batch"]}
    return check(
        {
            "task_name": name,
            "task_type": "classification" if classifies else "causal_lm",
            "model": {"name_or_path": str(folder / f"model-{name}")},
            "dataset": {**data, **(reading if classifies else wording)},
            "peft": METHODS[method]["peft"],
            "training": {"max_steps": 2, "learning_rate": 1e-4, **batch, **METHODS[method].get("training", {})},
        },
        f"{name} {method}",
    )


def measure(folder: Path, config: RunConfig, queue: Any) -> None:
    """Bytes above the baseline at the training's peak, and seconds of a step."""
    torch.set_num_threads(1)
    for name in WARMING:
        warm = config_of(folder, name, "lora").model_copy(update={"seed": os.getpid()})
        make_tokens(Run(warm, Store(folder)), quiet=True)
        train(Run(warm, Store(folder)), quiet=True)
    store = Store(folder)
    make_tokens(Run(config, store), quiet=True)
    before = psutil.Process().memory_info().rss
    done = read_record(train(Run(config, store), quiet=True))
    figures = done["circumstances"]
    queue.put((figures["peak_memory_bytes"]["training"] - before, figures["seconds"]["training"] / done["steps"]))


def case(folder: Path, name: str, method: str) -> dict[str, Any]:
    """One line: predicted and measured bytes, and seconds of a step and of the prediction."""
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    config = config_of(folder, name, method)
    process = spawn.Process(target=measure, args=(folder, config, queue))
    process.start()
    measured, seconds = queue.get(timeout=1200)
    process.join()
    store = Store(folder)
    shape = workload_of(Run(config, store), []).shape
    start = time.perf_counter()
    step = Estimator(store).step(Run(config, store), shape) if shape else None
    assert step is not None, f"{name} {method} could not be predicted"
    return {
        "shape": name,
        "method": method,
        "predicted": memory.training_bytes(step, PROCESSOR) - memory.PROCESS_BYTES,
        "measured": measured,
        "alive": step.peak,
        "weights": step.weights,
        "large": step.large,
        "seconds_a_step": seconds,
        "seconds_predicting": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="SHAPE:METHOD")
    parser.add_argument("--json", type=Path, help="a line of JSON for each case, too")
    given = parser.parse_args()
    cases = [(shape, method) for shape in SHAPES for method in METHODS]
    cases = [case for case in cases if not given.only or ":".join(case) in given.only]
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    errors = []
    print("| shape | method | alive (MiB) | predicted (MiB) | measured (MiB) | error | s a step | predicting (s) |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in WARMING:
            write_case(folder, name)
        for name, method in cases:
            write_case(folder, name)
            line = case(folder, name, method)
            error = line["predicted"] / line["measured"] - 1
            errors.append(abs(error))
            sizes = " | ".join(f"{line[key] / MEBIBYTE:.0f}" for key in ("alive", "predicted", "measured"))
            times = f"{line['seconds_a_step']:.1f} | {line['seconds_predicting']:.1f}"
            print(f"| {name} | {method} | {sizes} | {error:+.0%} | {times} |", flush=True)
            if given.json:
                with given.json.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print(f"\n{len(errors)} cases: median error {statistics.median(errors):.1%}, greatest {max(errors):.1%}.")
    machine, versions = hardware(), package_versions()
    print(f"{machine['cpu']}, {machine['cores']} cores (one thread used), {machine['memory_bytes'] / 2**30:.0f} GiB; ")
    print(", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "peft", "trl")))
    print(time.strftime("%Y-%m-%d", time.gmtime()))


if __name__ == "__main__":
    sys.exit(main())
