"""A model's predictions for an evaluation, as stored in the predictions file.

generation      {"prompt": "…", "completions": ["…"]}
choice          {"prompt": "…", "choices": [" Rome", " Paris"], "log_likelihoods": [-7.1, -2.3]}
perplexity      {"log_likelihood": -31.2, "tokens": 12, "bytes": 40}
classification  {"texts": ["…", "…"], "probabilities": [0.1, 0.9]}
regression      {"texts": ["…", "…"], "prediction": 3.25}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lora_ns.data.chat_template import chat_of
from lora_ns.data.encoding import Dropped, encode_continuations, encode_prompts, encode_rows, prompt_texts
from lora_ns.data.prompts import texts_of
from lora_ns.errors import DataError, EvaluationError
from lora_ns.evaluation.batch_size import in_batches, rows_at_a_time
from lora_ns.evaluation.distributed import spread
from lora_ns.evaluation.engines.decoding import with_stops
from lora_ns.evaluation.engines.vllm import ServedModel
from lora_ns.evaluation.eval_set import EvalSet
from lora_ns.evaluation.generation import Generator
from lora_ns.evaluation.loglikelihood import counted_tokens, log_likelihoods

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Answer = dict[str, Any]
Facts = dict[str, Any]
Progress = Callable[[int], None]


def predict(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    eval_set: EvalSet,
    progress: Progress = lambda done: None,
    served: ServedModel | None = None,
) -> tuple[list[Answer], Facts]:
    """Return (one prediction a row, in order; facts such as engine and batch size).  Raises DataError for an unusable row.

    served: vLLM's settings for the model, if vLLM generates the text.
    With several processes each row is evaluated in one of them, and all processes return all predictions.
    """
    askers: dict[str, Callable[..., tuple[list[Answer], Facts]]] = {
        "generation": partial(_generate, served=served),
        "choice": _choose,
        "perplexity": _measure,
        "classification": _classify,
        "regression": _classify,
    }
    facts: Facts = {}

    def of_places(places: list[int]) -> list[Answer]:
        if not places:
            return []
        part = eval_set if len(places) == len(eval_set.rows) else eval_set.part(places)
        answers, found = askers[eval_set.spec.kind](model, tokenizer, part, progress)
        facts.update(found)
        return answers

    return spread(len(eval_set.rows), of_places), facts


def prompts_as_text(eval_set: EvalSet, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """The prompts as text, with the chat template applied."""
    return prompt_texts(eval_set.prompts, chat_of(eval_set.dataset, tokenizer))


def probe_logits(model: Any, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet, count: int) -> Any:
    """Logits of the first rows, at the last position (causal) or of the classes: [rows, …]."""
    import torch

    if eval_set.task_type != "causal_lm":
        texts = [texts_of(row, eval_set.dataset) for row in eval_set.rows[:count]]
        return head_logits(model, tokenizer, texts, eval_set.dataset.max_length)
    encoded = encode_prompts(eval_set.prompts[:count], tokenizer, chat_of(eval_set.dataset, tokenizer))
    with torch.inference_mode():
        ids = [torch.tensor([row[: eval_set.dataset.max_length]], device=model.device) for row in encoded]
        return torch.stack([model(input_ids=row).logits[0, -1] for row in ids])


def room_warnings(model: Any, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet) -> list[str]:
    """Warnings about prompts that, with max_new_tokens, exceed the model's max_position_embeddings.

    Raises EvaluationError for learned position embeddings, which end there. Rotary embeddings only give a warning.
    """
    config = model.config.get_text_config()
    room = getattr(config, "max_position_embeddings", None)
    if eval_set.spec.kind != "generation" or room is None:
        return []
    encoded = eval_set.prompt_ids(tokenizer)
    new = eval_set.evaluation.generation.max_new_tokens
    long = [identity for identity, ids in zip(eval_set.ids, encoded, strict=True) if len(ids) + new > room]
    if not long:
        return []
    said = (
        f"{len(long)} prompts of {eval_set.spec.name} (first: row {long[0]}) with generation.max_new_tokens {new} are longer "
        f"than the {room} positions that the model was made for"
    )
    if getattr(config, "rope_parameters", None) is None:
        raise EvaluationError(f"{said}: ask for fewer tokens or few-shot examples, or use a model with a longer context.")
    return [said]


def _generate(
    model: Any, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet, progress: Progress, served: ServedModel | None
) -> tuple[list[Answer], Facts]:
    evaluation = eval_set.evaluation
    config, stop_ids = with_stops(evaluation.generation, chat_of(eval_set.dataset, tokenizer))
    generator = Generator(
        model, tokenizer, config, stop_ids=stop_ids, backend=evaluation.backend, size=evaluation.batch_size, served=served
    )
    completions = generator.texts(eval_set.prompt_ids(tokenizer), eval_set.ids, progress)
    texts = prompts_as_text(eval_set, tokenizer)
    answers = [{"prompt": p, "completions": c} for p, c in zip(texts, completions, strict=True)]
    return answers, generator.facts


def _choose(model: Any, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet, progress: Progress) -> tuple[list[Answer], Facts]:
    assert eval_set.spec.choices is not None
    choices = [eval_set.spec.choices(row, eval_set.evaluation.settings)[0] for row in eval_set.rows]
    chat = chat_of(eval_set.dataset, tokenizer)
    flat = [(prompt, choice) for prompt, of_row in zip(eval_set.prompts, choices, strict=True) for choice in of_row]
    encoded = encode_continuations([p for p, _ in flat], [c for _, c in flat], tokenizer, chat)
    sums, facts = log_likelihoods(model, encoded, tokenizer.pad_token_id, eval_set.evaluation.batch_size)
    found, answers = iter(sums), []
    for prompt, of_row in zip(prompts_as_text(eval_set, tokenizer), choices, strict=True):
        answers.append({"prompt": prompt, "choices": of_row, "log_likelihoods": [next(found) for _ in of_row]})
        progress(1)
    return answers, facts


def _measure(model: Any, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet, progress: Progress) -> tuple[list[Answer], Facts]:
    examples, owners = [], []
    answers: list[Answer] = []
    for number, result in enumerate(encode_rows(eval_set.rows, eval_set.dataset, tokenizer)):
        if isinstance(result, Dropped):
            raise DataError(f"row {eval_set.ids[number]} of {eval_set.dataset.name} has nothing to measure: {result.reason}.")
        answers.append({"log_likelihood": 0.0, "tokens": 0, "bytes": 0})
        for example in result:
            ids, spans = example.columns["input_ids"], example.columns["spans"]
            supervised = [ids[a:b] for a, b in zip(spans[::2], spans[1::2], strict=True)]
            text = "".join(str(tokenizer.decode(piece, skip_special_tokens=True)) for piece in supervised)
            answers[-1]["tokens"] += counted_tokens(spans)
            answers[-1]["bytes"] += len(text.encode())
            examples.append((ids, spans))
            owners.append(number)
    sums, facts = log_likelihoods(model, examples, tokenizer.pad_token_id, eval_set.evaluation.batch_size, progress)
    for owner, value in zip(owners, sums, strict=True):
        answers[owner]["log_likelihood"] += value
    return answers, facts


def _classify(
    model: Any, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet, progress: Progress
) -> tuple[list[Answer], Facts]:
    texts = [texts_of(row, eval_set.dataset) for row in eval_set.rows]
    answers: list[Answer] = [{"texts": text} for text in texts]
    columns, limit = [list(column) for column in zip(*texts, strict=True)], eval_set.dataset.max_length
    lengths = [len(ids) for ids in tokenizer(*columns, truncation=True, max_length=limit)["input_ids"]]

    def of_batch(batch: list[int]) -> None:
        logits = head_logits(model, tokenizer, [texts[i] for i in batch], limit).float()
        if eval_set.spec.kind == "regression":
            for i, value in zip(batch, logits[:, 0].tolist(), strict=True):
                answers[i]["prediction"] = value
        else:
            for i, row in zip(batch, logits.softmax(-1).tolist(), strict=True):
                answers[i]["probabilities"] = [round(p, 6) for p in row]
        progress(len(batch))

    order = sorted(range(len(texts)), key=lambda i: (-lengths[i], i))
    return answers, in_batches(order, rows_at_a_time(model, eval_set.evaluation.batch_size), of_batch)


def head_logits(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], max_length: int) -> Any:
    """Return class logits [B, C] (regression: values [B, 1]) of texts or pairs of texts."""
    import torch

    columns = [list(column) for column in zip(*texts, strict=True)]
    batch = tokenizer(*columns, truncation=True, max_length=max_length, padding=True, padding_side="right", return_tensors="pt")
    with torch.inference_mode():
        return model(**batch.to(model.device)).logits
