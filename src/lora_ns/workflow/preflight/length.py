"""Whether answers fit into max_length, as the model's own tokenizer counts; and whether it can pad, end, and speak in turns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config import RunConfig
from lora_ns.data.encoding import Dropped, encode_labelled, encode_rows
from lora_ns.data.prompts import Row
from lora_ns.data.tokenizer import check_end, load_tokenizer
from lora_ns.errors import ConfigError, DataError, InputError
from lora_ns.store.paths import Store
from lora_ns.workflow.preflight.finding import Finding, advice
from lora_ns.workflow.preflight.fitting import why_lost
from lora_ns.workflow.preflight.rows import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_ENCODED = 500
"""Maximum training rows that are tokenised, spread evenly over the sample."""
OFTEN_CUT = 0.1
"""Share of truncated rows above which advice is given."""


def check_lengths(config: RunConfig, store: Store, place: Path, sample: Sample | None) -> tuple[list[Finding], int]:
    """(what was found, tokens of the longest row).  place: the model's folder; sample: the rows, where they are here."""
    quick = _plain_tokenizer(place)
    if quick is not None:
        found, longest = _looked_at(config, quick, sample)
        if not any(finding.fatal for finding in found):
            return found, longest
    try:
        return _looked_at(config, load_tokenizer(config.model, store, place=place), sample)
    except InputError as error:
        return [Finding(str(error))], 0


def _plain_tokenizer(place: Path) -> Any:
    """Load tokenizer.json without torch or the model's own tokenizer class; None if that fails."""
    if not (place / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(place)
    except Exception:  # whatever is wrong with it, loading it in earnest says so
        return None


def _looked_at(config: RunConfig, tokenizer: PreTrainedTokenizerBase, sample: Sample | None) -> tuple[list[Finding], int]:
    try:
        if config.task_type == "causal_lm":
            check_end(tokenizer, config.model)
        rows = _spread(sample.rows("train")) if sample else []
        rows = [row for row in rows if why_lost(row, config) is None]
        encoded = list(_encode(rows, config, tokenizer))
    except ConfigError as error:
        return [Finding(str(error))], 0
    except (DataError, KeyError):
        return [], 0  # rows that do not fit, or lack a column, were named already
    whole = sample is not None and sample.whole and len(sample.rows("train")) <= ROWS_ENCODED
    lengths = [len(one.columns["input_ids"]) for result in encoded if not isinstance(result, Dropped) for one in result]
    return list(_of_encoded(encoded, config, whole)), max(lengths, default=0)


def _spread(rows: list[Row]) -> list[Row]:
    step = max(1, len(rows) // ROWS_ENCODED)
    return rows[::step][:ROWS_ENCODED]


def _encode(rows: list[Row], config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    if config.task_type == "causal_lm":
        return encode_rows(rows, config.dataset, tokenizer)
    return encode_labelled(rows, 0, config.dataset, config.task_type, tokenizer) if rows else iter(())


def _of_encoded(encoded: list[Any], config: RunConfig, whole: bool) -> Iterator[Finding]:
    """Yield findings about rows without a response inside max_length, and about truncated rows."""
    data, count = config.dataset, len(encoded)
    lost = [result.reason for result in encoded if isinstance(result, Dropped)]
    if lost:
        looked_at = f"{len(lost)} of {count}" if whole else f"{len(lost)} of {count} that were looked at"
        text = (
            f"dataset.max_length: in {looked_at} training rows of {data.name} the answer begins behind max_length "
            f"({lost[0]}); such rows are lost, and dataset.max_dropped allows {data.max_dropped:.1%}"
        )
        yield Finding(f"{text}.") if _too_many(len(lost), count, data.max_dropped, whole) else advice(f"{text}.")
    cut = sum(any(one.truncated for one in result) for result in encoded if not isinstance(result, Dropped))
    if count and cut / count >= OFTEN_CUT:
        what = "text" if config.task_type != "causal_lm" else "answer"
        yield advice(
            f"dataset.max_length: {cut} of {count} training rows of {data.name} are longer than {data.max_length} tokens and "
            f"lose the end of their {what}."
        )


def _too_many(lost: int, count: int, allowed: float, whole: bool) -> bool:
    """Whether tokenising would fail: exact if all rows were read, else by the lower bound of a 99 % Wilson interval."""
    if whole:
        return lost > allowed * count
    from lora_ns.reporting.statistics import wilson_interval

    return wilson_interval(lost, count, confidence=0.99).low > allowed
