"""Evaluation against transformers' plain `generate`, and several adapters at once:  python benchmarks/evaluation.py

Text.  GSM8K's test set as lengths: each prompt and each answer of a random Llama is as long as the real one, since the
words of the model say how many are to come (`forced`), while which of sixteen words comes next is the model's own choice.
Every contender answers the same rows in a process of its own, interleaved and repeated; all must say the same.

Adapters (--adapters).  K LoRA adapters of one base asked the same rows: by K processes, one after another in one process,
and together.

The figure is answered tokens per CPU second; loading is not counted for text, and counted for adapters.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders import intermediate, measured, peak_bytes, without_engines

from lora_ns.store.run import Run

TEXT = ("ours", "generate, 8", "generate, 16", "generate, 32", "generate, 64", "generate, 128")
ADAPTERS = ("processes in turn", "one process in turn", "together")
CHOICES, LONGEST = 16, 512
END = CHOICES * (LONGEST + 1)
SHARED = ("place", "data", "rows", "adapters", "opening")
PROMPT, RESPONSE = "Question: {question}\nAnswer:", " {answer}"
Answers = list[list[int]]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, default=Path("../shared/data/gsm8k"))
    words.add_argument("--rows", type=int, default=256)
    words.add_argument("--hidden", type=int, default=512)
    words.add_argument("--layers", type=int, default=8)
    words.add_argument("--heads-of-keys", type=int, default=8, help="of the hidden size / 64 heads")
    words.add_argument("--opening", type=int, default=0, help="tokens that all prompts share before their own")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--adapters", type=int, default=0, help="so many adapters, in place of text")
    words.add_argument("--only", nargs="*")
    words.add_argument("--contender")
    words.add_argument("--place", type=Path)
    given = words.parse_args()
    given.data = given.data.resolve()
    without_engines()
    if given.contender:
        print(json.dumps((adapters if given.adapters else text)(given.contender, given)))
        return
    names = given.only or (ADAPTERS if given.adapters else TEXT)
    with tempfile.TemporaryDirectory() as folder:
        given.place = Path(folder)
        prepare(given)
        figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for repeat in range(given.repeats):
            for name in names:
                found = measured(__file__, name, {key: getattr(given, key) for key in SHARED})
                figures[name].append(found)
                said = f"{repeat + 1}/{given.repeats} {name:20} {found['tokens'] / found['cpu']:8.0f} tokens/CPU s"
                print(said, file=sys.stderr)
    said_by_all = {one["said"] for runs in figures.values() for one in runs}
    assert len(said_by_all) == 1, "the contenders said different things"
    show(figures, ADAPTERS[0] if given.adapters else "generate, 8")


def show(figures: dict[str, list[dict[str, Any]]], baseline: str) -> None:
    """The table: medians and ranges, ratios within each repeat."""
    print(f"| | answered tokens / CPU s, median (range) | × {baseline} (range) | peak MiB |\n|---|---:|---:|---:|")
    for name, runs in figures.items():
        rates = [one["tokens"] / one["cpu"] for one in runs]
        against = [one["tokens"] / one["cpu"] for one in figures.get(baseline, runs)]
        ratios = [a / b for a, b in zip(rates, against, strict=True)]
        peak = statistics.median(one["peak"] for one in runs) / 2**20
        spread = f"{statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})"
        print(f"| {name} | {spread} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | {peak:.0f} |")


def prepare(given: argparse.Namespace) -> None:
    """Tokenizer and random model, once for all; adapters where they are asked for."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    specials = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=specials, show_progress=False)
    core.train_from_iterator((PROMPT.format(**row) + RESPONSE.format(**row) for row in read(given, "train")), trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(given.place / "model")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=END + 1, hidden_size=given.hidden, intermediate_size=intermediate(given.hidden), pad_token_id=0,
        num_hidden_layers=given.layers, num_attention_heads=given.hidden // 64, num_key_value_heads=given.heads_of_keys,
        bos_token_id=2, eos_token_id=3, max_position_embeddings=4096,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(given.place / "model")
    if given.adapters:
        from lora_ns.workflow.pipeline import make_adapter

        os.chdir(given.place)
        for config in runs(given):
            make_adapter(Run(config, store()), quiet=True)


def read(given: argparse.Namespace, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (given.data / f"{split}.jsonl").read_text().splitlines()]


# -- text ------------------------------------------------------------------------------------------------------------


def text(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens, CPU seconds, peak memory (bytes) and a checksum of what was said."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(given.place / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(given.place / "model")
    forced(model)
    asked = prompts(given, tokenizer)
    answer: Callable[..., Answers] = ours if name == "ours" else functools.partial(plain, int(name.split(", ")[1]))
    started = time.process_time()
    answers = answer(model, tokenizer, asked)
    cpu = time.process_time() - started
    said = hashlib.sha256(json.dumps(answers).encode()).hexdigest()
    return {"tokens": sum(map(len, answers)), "cpu": cpu, "peak": peak_bytes(), "said": said}


def prompts(given: argparse.Namespace, tokenizer: Any) -> Answers:
    """Random tokens, as many as GSM8K's questions have; the last one says how many the answer has."""
    import random

    draw = random.Random(0)
    rows = draw.sample(read(given, "test"), given.rows)
    questions = tokenizer([PROMPT.format(**row) for row in rows])["input_ids"]
    solutions = tokenizer([RESPONSE.format(**row) for row in rows], add_special_tokens=False)["input_ids"]
    opening = [draw.randrange(END) for _ in range(given.opening)]
    return [
        [*opening, *(draw.randrange(END) for _ in range(len(question) - 1)), len(solution) * CHOICES + draw.randrange(CHOICES)]
        for question, solution in zip(questions, solutions, strict=True)
    ]


def forced(model: Any) -> None:
    """Makes a model count down: a word of group g is followed by one of group g - 1, which one is the model's own choice."""
    import torch

    forward = model.forward

    @functools.wraps(forward)
    def counting(*words: Any, **named: Any) -> Any:
        output = forward(*words, **named)
        logits, group = output.logits[:, -1:], named["input_ids"][:, -1] // CHOICES
        places = (group - 1).clamp(min=0)[:, None] * CHOICES + torch.arange(CHOICES)
        output.logits = torch.full_like(logits, -50.0)
        output.logits.scatter_(2, places[:, None], logits.gather(2, places[:, None]))
        output.logits[group <= 1] = torch.nn.functional.one_hot(torch.tensor(END), END + 1).float()
        return output

    model.forward = counting
    model.config.eos_token_id = END


def ours(model: Any, tokenizer: Any, asked: Answers) -> Answers:
    """Through the generator, as an evaluation asks, with nothing said about how many at a time."""
    from lora_ns.config import GenerationConfig
    from lora_ns.evaluation.engines.decoding import TokenSequence
    from lora_ns.evaluation.generation import Generator

    generator, said = Generator(model, tokenizer, GenerationConfig(max_new_tokens=LONGEST)), dict[str, list[int]]()

    def keep(answer: TokenSequence) -> str:
        said[answer.key] = answer.tokens
        return ""

    generator.decoder.text = keep  # type: ignore[method-assign]
    generator.texts(asked, [str(number) for number in range(len(asked))])
    assert generator.facts["engine"] == "continuous", generator.facts
    return [said[f"{number} 0"] for number in range(len(asked))]


def plain(size: int, model: Any, tokenizer: Any, asked: Answers) -> Answers:
    """transformers' `generate` in the order of the rows, padded on the left."""
    import torch
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=LONGEST, do_sample=False, eos_token_id=END, pad_token_id=0)
    answers = []
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in batch])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch])
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        answers += [row[: row.index(END)] for row in output[:, longest:].tolist()]
    return answers


# -- adapters --------------------------------------------------------------------------------------------------------


def runs(given: argparse.Namespace) -> list[Any]:
    """K seeds of one LoRA, trained for three steps; the rows are GSM8K's own."""
    from lora_ns.config import check

    data = {split: str(given.data / f"{split}.jsonl") for split in ("train", "test")}
    content = {
        "task_name": "gsm8k", "task_type": "causal_lm", "model": {"name_or_path": str(given.place / "model")},
        "peft": {"method": "lora", "r": 8, "target_modules": "all-linear"},
        "dataset": {"name": data, "prompt_template": PROMPT, "response_template": RESPONSE, "max_samples": 200},
        "training": {"max_steps": 3, "global_batch_size": 4, "learning_rate": 1e-2},
        "evaluation": {"benchmarks": [{"name": "gsm8k", "limit": given.rows}], "generation": {"max_new_tokens": 64}},
    }  # fmt: skip
    return [check({**content, "seed": seed}, "benchmark") for seed in range(given.adapters)]


def store() -> Any:
    from lora_ns.store.paths import Store

    return Store()


def adapters(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The same of K evaluations from configs to scores, with all that loading takes."""
    from lora_ns.workflow.pipeline import make_scores

    os.chdir(given.place)
    configs, here = runs(given), store()
    evaluation = Run(configs[0], here).evaluation(configs[0].evaluation.benchmarks[0])
    files = [str(Run(config, here).write_file()) for config in configs]
    asked = str(here.write_evaluation_file(evaluation))
    scores = [Run(config, here).score(evaluation) for config in configs]
    for path in scores:
        path.unlink(missing_ok=True)
    started = time.process_time() + _of_children()
    if name == "processes in turn":
        for file in files:
            command = [sys.executable, "-m", "lora_ns", "evaluate", "--config", file, "--evaluation", asked]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    elif name == "one process in turn":
        for config in configs:
            make_scores([Run(config, here)], evaluation, quiet=True)
    else:
        make_scores([Run(config, here) for config in configs], evaluation, quiet=True)
    cpu = time.process_time() + _of_children() - started
    lines = [here.predictions(path.parent.name, evaluation.name).read_bytes() for path in scores]
    most = max(peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    tokens = given.adapters * given.rows * 64
    return {"tokens": tokens, "cpu": cpu, "peak": most, "said": hashlib.sha256(b"".join(lines)).hexdigest()}


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
