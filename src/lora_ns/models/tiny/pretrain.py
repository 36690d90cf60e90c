"""Make a base model: train its tokenizer and its weights on generated texts, write a plain Hugging Face directory.

The same specification and thread count give the same bytes on the same machine.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForPreTraining,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lora_ns.config.builtin import base_model_spec
from lora_ns.errors import TrainingError
from lora_ns.models.tiny import corpus
from lora_ns.models.tiny.muon import Muon
from lora_ns.store.environment import hardware

Progress = Callable[[int, int, float], None]
"""Called with (step, steps, loss)."""

IGNORED = -100
REPORT_EVERY_STEPS = 10


def pretrain(name: str, out: Path, *, threads: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """Train the base model `name` (a key of `BASE_MODELS`) and write its files into the empty directory `out`.

    Returns facts: parameters, steps, tokens (with padding), loss (mean of the last tenth of the steps), seconds, hardware.
    Raises ConfigError for an unknown name, TrainingError for a loss that is not finite.
    """
    return pretrain_spec(base_model_spec(name), out, threads=threads, progress=progress)


def pretrain_spec(spec: Mapping[str, Any], out: Path, *, threads: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """Run `pretrain` for any specification with the form of the values of `BASE_MODELS`."""
    started = time.perf_counter()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec["seed"])
            make = {"causal_lm": _causal_lm, "encoder": _encoder}[spec["kind"]]
            tokenizer, model, batches = make(spec)
            losses, tokens = _fit(model, batches, spec["training"], progress)
        made_on = hardware()
    finally:
        torch.set_num_threads(threads_before)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": len(losses),
        "tokens": tokens,
        "loss": sum(tail) / len(tail),
        "seconds": time.perf_counter() - started,
        "hardware": made_on,
    }


# ---- the causal model ------------------------------------------------------------------------------------------------


def _causal_lm(spec: Mapping[str, Any]) -> tuple[PreTrainedTokenizerFast, PreTrainedModel, Iterator[dict[str, Any]]]:
    def documents() -> Iterator[str]:
        return getattr(corpus, spec["corpus"])(spec["seed"])

    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    core = _byte_level_bpe(itertools.islice(documents(), spec["tokenizer_documents"]), spec, list(specials.values()))
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    tokenizer = _wrapped(core, spec, specials, padding_side="left", model_input_names=["input_ids", "attention_mask"])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        **spec["architecture"],
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, model, _packed_batches(documents(), tokenizer, spec["training"])


def _packed_batches(
    documents: Iterator[str], tokenizer: PreTrainedTokenizerFast, shape: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield concatenated documents cut into blocks: input_ids and labels [batch, sequence]."""
    block = shape["batch_size"] * shape["sequence_length"]
    stream: list[int] = []
    while True:
        while len(stream) < block:
            for ids in tokenizer(list(itertools.islice(documents, 256)))["input_ids"]:
                stream += [*ids, tokenizer.eos_token_id]
        input_ids = torch.tensor(stream[:block]).view(shape["batch_size"], shape["sequence_length"])
        del stream[:block]
        yield {"input_ids": input_ids, "labels": input_ids}


# ---- the encoder -----------------------------------------------------------------------------------------------------


def _encoder(spec: Mapping[str, Any]) -> tuple[PreTrainedTokenizerFast, PreTrainedModel, Iterator[dict[str, Any]]]:
    def pairs() -> Iterator[tuple[str, str, int]]:
        return getattr(corpus, spec["corpus"])(spec["seed"])

    specials = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    texts = (f"{first} {second}" for first, second, _ in itertools.islice(pairs(), spec["tokenizer_documents"]))
    core = _byte_level_bpe(texts, spec, list(specials.values()), lowercase=True)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = _wrapped(core, spec, specials, padding_side="right", model_input_names=names)
    dropout = spec["training"].get("dropout", 0.0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **spec["architecture"],
    )
    return tokenizer, BertForPreTraining(config), _masked_batches(pairs(), tokenizer, spec["training"])


def _masked_batches(
    pairs: Iterator[tuple[str, str, int]], tokenizer: PreTrainedTokenizerFast, shape: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield batches [batch, sequence] for BERT's masked words and next sentence tasks (Devlin et al. 2019, section 3.1).

    A chosen token becomes [MASK] (80 %), another token (10 %) or stays (10 %).  Positions start at a random offset, so
    that the model can handle texts shifted by virtual tokens.
    """
    length = shape["sequence_length"]
    shifts = shape["largest_shift"]
    while True:
        first, second, follows = zip(*itertools.islice(pairs, shape["batch_size"]), strict=True)
        batch = tokenizer(list(first), list(second), padding=True, truncation=True, max_length=length, return_tensors="pt")
        input_ids = batch["input_ids"]
        ordinary = input_ids >= len(tokenizer.all_special_ids)
        chosen = ordinary & (torch.rand(input_ids.shape) < shape["mask_rate"])
        labels = input_ids.masked_fill(~chosen, IGNORED)
        lot = torch.rand(input_ids.shape)
        input_ids = input_ids.masked_fill(chosen & (lot < 0.8), tokenizer.mask_token_id)
        others = torch.randint(len(tokenizer.all_special_ids), len(tokenizer), input_ids.shape)
        input_ids = torch.where(chosen & (lot >= 0.9), others, input_ids)
        yield {
            "input_ids": input_ids,
            "token_type_ids": batch["token_type_ids"],
            "attention_mask": batch["attention_mask"],
            "position_ids": torch.arange(input_ids.size(1)) + torch.randint(0, shifts + 1, (len(first), 1)),
            "labels": labels,
            "next_sentence_label": 1 - torch.tensor(follows),
        }


# ---- shared ----------------------------------------------------------------------------------------------------------


def _byte_level_bpe(texts: Iterator[str], spec: Mapping[str, Any], specials: list[str], lowercase: bool = False) -> Tokenizer:
    """Train a byte-level BPE tokenizer with single digits.  Special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE(unk_token=specials[0]))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=lowercase)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec["vocab_size"],
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wrapped(core: Tokenizer, spec: Mapping[str, Any], specials: dict[str, str], **kwargs: Any) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=spec["architecture"]["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
        **specials,
        **kwargs,
    )


def _fit(
    model: PreTrainedModel, batches: Iterator[dict[str, Any]], shape: Mapping[str, Any], progress: Progress | None
) -> tuple[list[float], int]:
    """Train with Muon for the layers' matrices and AdamW for the rest: warm-up, constant rate, linear decay to zero.

    Returns the loss of each step and the number of tokens.
    """
    steps = shape["steps"]
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layer" in name)]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=shape["muon_learning_rate"]),
        torch.optim.AdamW(rest, lr=shape["adamw_learning_rate"], weight_decay=0.0, betas=(0.9, 0.98)),
    ]

    def rate(step: int) -> float:
        return min((step + 1) / shape["warmup_steps"], 1.0, (steps - step) / (steps * shape["decay_fraction"]))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    model.train()
    losses: list[float] = []
    tokens = 0
    for step, batch in enumerate(itertools.islice(batches, steps), start=1):
        loss = loss_of(model, batch)
        losses.append(loss.item())
        tokens += batch["input_ids"].numel()
        if not math.isfinite(losses[-1]):
            raise TrainingError(f"the loss of the base model became {losses[-1]} at step {step}")
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if progress and (step % REPORT_EVERY_STEPS == 0 or step == steps):
            progress(step, steps, losses[-1])
    return losses, tokens


def loss_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The model's loss in nats.  An encoder's logits are computed at masked positions only (one in seven)."""
    if "next_sentence_label" not in batch:
        return model(**batch).loss
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "next_sentence_label")}
    read, masked = model.bert(**inputs), batch["labels"] != IGNORED
    words = model.cls.predictions(read.last_hidden_state[masked])
    follows = model.cls.seq_relationship(read.pooler_output)
    entropy = torch.nn.functional.cross_entropy
    return entropy(words, batch["labels"][masked]) + entropy(follows, batch["next_sentence_label"])
