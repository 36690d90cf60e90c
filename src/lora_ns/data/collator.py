"""Collate rows into a batch: right padding, and labels at the positions that carry loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Any]
Collate = Callable[[Sequence[dict[str, Any]]], Batch]

IGNORED = -100
"""Label without loss, as in transformers."""


def collate_of(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Collate:
    """Return the task's collate function.  For no rows it gives a batch of one row without loss."""
    if config.task_type == "causal_lm":
        return _responses(tokenizer.pad_token_id)
    return _labelled(tokenizer, regression=config.task_type == "regression")


def _responses(pad_token_id: int) -> Collate:
    """Return the causal_lm collate function.  It gives input_ids, attention_mask, labels [B, T], and `with_targets`' keys."""
    import torch

    def collate(rows: Sequence[dict[str, Any]]) -> Batch:
        longest = max((len(row["input_ids"]) for row in rows), default=2)
        shape = (max(1, len(rows)), longest)
        input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
        attention = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        for i, row in enumerate(rows):
            ids, spans = torch.tensor(row["input_ids"]), [int(place) for place in row["spans"]]
            input_ids[i, : len(ids)] = ids
            attention[i, : len(ids)] = 1
            for start, end in zip(spans[::2], spans[1::2], strict=True):
                labels[i, start:end] = ids[start:end]
        if not rows:
            attention[:] = 1
        return with_targets({"input_ids": input_ids, "attention_mask": attention, "labels": labels})

    return collate


def with_targets(batch: Batch) -> Batch:
    """Return the batch with its N supervised positions.

    logits_to_keep [B, T]: whether the token after a position carries loss (an argument of transformers' models).
    targets [N]: those tokens, row by row.
    """
    import torch

    ahead = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    carried = ahead != IGNORED
    return {**batch, "logits_to_keep": carried, "targets": ahead[carried]}


def _labelled(tokenizer: PreTrainedTokenizerBase, *, regression: bool) -> Collate:
    """Return the classification or regression collate function.

    It gives input_ids, attention_mask [B, T], labels [B], and token_type_ids [B, T] if the tokenizer has them.
    """
    import torch

    pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    nothing = {"input_ids": [tokenizer.pad_token_id], "token_type_ids": [0]}

    def collate(rows: Sequence[dict[str, Any]]) -> Batch:
        given = rows or [nothing]
        longest = max(len(row["input_ids"]) for row in given)
        batch = {"attention_mask": torch.zeros((len(given), longest), dtype=torch.long)}
        for i, row in enumerate(given):
            batch["attention_mask"][i, : len(row["input_ids"])] = 1
        for name in [name for name in pads if name in (given[0] if rows else tokenizer.model_input_names)]:
            batch[name] = torch.full((len(given), longest), pads[name], dtype=torch.long)
            for i, row in enumerate(given):
                batch[name][i, : len(row[name])] = torch.tensor(row[name])
        kind = torch.float32 if regression else torch.long
        empty = float("nan") if regression else IGNORED
        batch["labels"] = torch.tensor([row.get("label", empty) for row in given], dtype=kind)
        return batch

    return collate
