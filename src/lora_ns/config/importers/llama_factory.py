"""Import of a LLaMA-Factory config as a task config. Data sets are read from dataset_info.json.

The module is long because every key of theirs is named once.

theirs   {model_name_or_path: m, stage: sft, finetuning_type: lora, dataset: mine, template: qwen, cutoff_len: 2048, …}
         dataset_info.json: {mine: {file_name: mine.json, formatting: sharegpt}}
ours     {model: {name_or_path: m}, dataset: {name: data/mine.json, format: sharegpt, chat_template: tokenizer}, …}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.config import nearest, read_mapping
from lora_ns.config.dataset import ROLES
from lora_ns.config.importers.foreign_config import ForeignConfig, batch, checked, copy_same_named, lora_plus, optimizer, schedule
from lora_ns.config.naming import slug
from lora_ns.errors import ConfigError

WATCHING = frozenset(
    """
    overwrite_output_dir overwrite_cache preprocessing_num_workers preprocessing_batch_size plot_loss tokenized_path
    data_shared_file_system max_shard_size print_param_status use_fast_tokenizer resize_vocab cache_dir hf_hub_token
    ms_hub_token om_hub_token infer_backend infer_dtype offload_folder use_cache use_kv_cache flash_attn use_unsloth
    use_unsloth_gc enable_liger_kernel split_special_tokens predict_with_generate compute_accuracy use_swanlab
    swanlab_project swanlab_run_name swanlab_mode swanlab_workspace swanlab_api_key ray_run_name ray_num_workers
    ray_storage_path placement_strategy resources_per_worker include_num_input_tokens_seen
    include_effective_tokens_per_second quantization_device_map use_reentrant_gc export_dir export_size export_device
    export_legacy_format eval_on_each_dataset double_quantization pissa_convert upcast_layernorm upcast_lmhead_output
    """.split()
)
"""Keys for logging, storage, speed and devices, and keys whose effect lora-ns has anyway."""

DEFAULT_LENGTH, DEFAULT_SEED, DEFAULT_PER_DEVICE, DEFAULT_RATE, DEFAULT_RANK = 2048, 42, 8, 5e-5, 8


def from_llama_factory(path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return (content of the task config, remarks).  Raises ConfigError where the file needs an unsupported feature."""
    theirs = ForeignConfig(read_mapping(path))
    stage = theirs.take("stage", str, "sft")
    if stage not in ("sft", "pt"):
        raise ConfigError(f"{path}: stage: {stage!r} is not trained here, only sft (answers) and pt (text).")
    if not theirs.has("model_name_or_path"):
        raise ConfigError(f"{path}: model_name_or_path is missing: is this a config of LLaMA-Factory?")
    ours = {
        "task_name": slug(path.stem),
        "task_type": "causal_lm",
        "model": _model(theirs),
        "peft": _peft(theirs),
        "dataset": _dataset(theirs, path, stage),
        "training": _training(theirs),
        "evaluation": {"benchmarks": ["perplexity"]},
        "seed": theirs.take("seed", int, DEFAULT_SEED),
    }
    theirs.note("evaluation.benchmarks: perplexity of the held-out answers, their eval_loss; name what else is to be asked.")
    theirs.note_left(WATCHING)
    return checked(ours, overrides or {}, theirs, path), theirs.notes


def _model(theirs: ForeignConfig) -> dict[str, Any]:
    model: dict[str, Any] = {"name_or_path": theirs.take("model_name_or_path", str, "")}
    revision = theirs.value("model_revision")
    if revision not in (None, "main"):
        model["revision"] = revision
    bfloat16 = theirs.take("bf16", bool, False) or theirs.take("pure_bf16", bool, False)
    model["dtype"] = "bfloat16" if bfloat16 else "float16" if theirs.take("fp16", bool, False) else "float32"
    bits, kind = theirs.value("quantization_bit"), theirs.take("quantization_method", str, "bnb").lower()
    if bits in (4, 8) and kind in ("bnb", "bitsandbytes"):
        model["quantization"] = f"{bits}bit"
    elif bits is not None:
        theirs.note(f"quantization_bit: {bits} by {kind} has no counterpart: 4 or 8 by bitsandbytes; not quantised.")
    if theirs.value("trust_remote_code"):
        theirs.note("trust_remote_code: left off; model.trust_remote_code: true runs code that comes with a model.")
    if theirs.has("adapter_name_or_path"):
        theirs.note(f"adapter_name_or_path: {theirs.value('adapter_name_or_path')!r}: a run starts from a base model here.")
    return model


def _peft(theirs: ForeignConfig) -> dict[str, Any]:
    kind = theirs.take("finetuning_type", str, "lora")
    if kind == "full":
        return {"method": "full"}
    if kind != "lora":
        raise ConfigError(
            f"finetuning_type: {kind!r} is not carried over; lora and full are. For another method, write its file in "
            "configs/methods and import with finetuning_type lora."
        )
    targets = theirs.words("lora_target") or ["all"]
    rank = theirs.take("lora_rank", int, DEFAULT_RANK)
    peft: dict[str, Any] = {
        "method": "lora",
        "r": rank,
        "lora_alpha": theirs.take("lora_alpha", int, 2 * rank),
        "lora_dropout": theirs.take("lora_dropout", float, 0.0),
        "target_modules": "all-linear" if targets == ["all"] else targets,
    }
    peft |= {flag: True for flag in ("use_dora", "use_rslora") if theirs.take(flag, bool, False)}
    if extra := theirs.words("additional_target"):
        peft["modules_to_save"] = extra
    iterations = theirs.take("pissa_iter", int, 16)
    if theirs.take("pissa_init", bool, False):
        peft["init_lora_weights"] = "pissa" if iterations < 0 else f"pissa_niter_{iterations}"
    return peft


def _dataset(theirs: ForeignConfig, path: Path, stage: str) -> dict[str, Any]:
    names = theirs.words("dataset")
    if not names:
        raise ConfigError(f"{path}: dataset is missing.")
    folder = _data_folder(theirs.take("dataset_dir", str, "data"), path)
    known = _entries(folder)
    entry = _entry(theirs, names[0], known, folder)
    data = {**_source(entry, folder), **_shape(theirs, entry, stage)}
    _join(theirs, data, names, known, folder)
    _held_out(theirs, data, known, folder)
    data["max_length"] = theirs.take("cutoff_len", int, DEFAULT_LENGTH)
    limit = theirs.value("max_samples") or entry.value("num_samples")
    if limit is not None:
        data["max_samples"] = limit
        theirs.note("max_samples: theirs are the first rows, ours (dataset.max_samples) a seeded sample.")
    if theirs.take("streaming", bool, False):
        data["streaming"] = True
    entry.note_left()
    return data


def _data_folder(name: str, path: Path) -> Path:
    """Return `dataset_dir`, relative to the working folder, to the config's folder or to a folder above it."""
    places = [Path(name), *(above / name for above in path.resolve().parents)]
    found = next((place for place in places if (place / "dataset_info.json").is_file()), None)
    if found is None:
        raise ConfigError(
            f"{path}: dataset_dir: there is no {name}/dataset_info.json here, beside the config or in a folder above it."
        )
    return found


def _entries(folder: Path) -> dict[str, Any]:
    where = folder / "dataset_info.json"
    try:
        content = json.loads(where.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}.") from None
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise ConfigError(f"{where}: expected names and what each says.")
    return content


def _entry(theirs: ForeignConfig, name: str, known: Mapping[str, Any], folder: Path) -> ForeignConfig:
    if name not in known:
        raise ConfigError(f"dataset: {name!r} is not in {folder / 'dataset_info.json'}.{nearest(name, known)}")
    return theirs.part(known[name], f"{name}.")


def _source(entry: ForeignConfig, folder: Path) -> dict[str, Any]:
    """Return the dataset keys that say where an entry's rows come from."""
    hub, file = entry.value("hf_hub_url"), entry.value("file_name")
    for other in ("ms_hub_url", "om_hub_url"):
        entry.value(other)
    if not hub and not file:
        raise ConfigError(f"{entry.within.rstrip('.')}: neither file_name nor hf_hub_url in dataset_info.json.")
    data: dict[str, Any] = {"name": hub or str(folder / str(file))}
    for key, ours in {"subset": "subset", "folder": "subset"}.items():
        if hub and entry.has(key):
            data[ours] = entry.value(key)
    split = entry.take("split", str, "train")
    return data | ({"train_split": split} if split != "train" else {})


def _shape(theirs: ForeignConfig, entry: ForeignConfig, stage: str) -> dict[str, Any]:
    """Return the dataset keys for the row format: text, alpaca columns or conversation turns."""
    if entry.value("ranking"):
        raise ConfigError(f"{entry.within}ranking: preferences are not trained on here, only answers and text.")
    columns = entry.part(entry.take("columns", dict, {}), "columns.")
    kind = entry.take("formatting", str, "alpaca")
    if stage == "pt":
        data: dict[str, Any] = {"format": "text", "text_columns": [columns.take("prompt", str, "instruction")]}
        theirs.value("template")
    elif kind == "alpaca":
        data = {"format": "alpaca", "columns": _alpaca_columns(columns), "chat_template": _template(theirs)}
    elif kind in ("sharegpt", "openai"):
        data = {**_turns(entry, columns, kind), "chat_template": _template(theirs)}
    else:
        raise ConfigError(f"{entry.within}formatting: expected alpaca, sharegpt or openai, found {kind!r}.")
    columns.note_left()
    return {key: value for key, value in data.items() if value != {}}


def _alpaca_columns(columns: ForeignConfig) -> dict[str, str | None]:
    """Return our column name -> theirs. If columns are given without `query`, a column `input` in the data is not read."""
    names = {"instruction": "prompt", "input": "query", "output": "response"}
    wanted = {ours: columns.take(name, str, ours) for ours, name in names.items()}
    found: dict[str, str | None] = {ours: name for ours, name in wanted.items() if ours != name}
    if columns.stated and not columns.has("query"):
        found["input"] = None
    return found


def _turns(entry: ForeignConfig, columns: ForeignConfig, kind: str) -> dict[str, Any]:
    tags = entry.part(entry.take("tags", dict, {}), "tags.")
    usual = ("from", "value") if kind == "sharegpt" else ("role", "content")
    role, content = tags.take("role_tag", str, usual[0]), tags.take("content_tag", str, usual[1])
    shapes = {("from", "value"): ("sharegpt", "conversations"), ("role", "content"): ("messages", "messages")}
    if (role, content) not in shapes:
        raise ConfigError(
            f"{tags.within}role_tag: a turn is {{from, value}} or {{role, content}} here, not {{{role}, {content}}}; "
            "rename the keys in the data."
        )
    for tag in ("user_tag", "assistant_tag", "system_tag"):
        name = tags.value(tag)
        if name is not None and name not in ROLES:
            tags.note(f"{tags.within}{tag}: turns by {name!r} are unknown here; known: {', '.join(ROLES)}.")
    tags.note_left()
    form, ours = shapes[(role, content)]
    column = columns.take("messages", str, "conversations" if kind == "sharegpt" else "messages")
    return {"format": form, "columns": {ours: column} if column != ours else {}}


def _template(theirs: ForeignConfig) -> str:
    """Return the chat template: always the tokenizer's own, since LLaMA-Factory names templates after models."""
    name = theirs.value("template")
    if name is not None:
        theirs.note(
            f"template: {name}: the tokenizer's own template is taken (dataset.chat_template: tokenizer); tulu, or a "
            ".jinja file, where that is another."
        )
    return "tokenizer"


def _join(theirs: ForeignConfig, data: dict[str, Any], names: list[str], known: Mapping[str, Any], folder: Path) -> None:
    """Join several local files of one format into one list. Otherwise only the first data set is used."""
    if len(names) < 2:
        return
    entries = [_entry(theirs, name, known, folder).stated for name in names]
    shapes = [{key: value for key, value in entry.items() if key != "file_name"} for entry in entries]
    if all("file_name" in entry for entry in entries) and all(shape == shapes[0] for shape in shapes):
        data["name"] = [str(folder / entry["file_name"]) for entry in entries]
        return
    theirs.note(
        f"dataset: a task has one data set here, or several local files of one shape: only {names[0]} is taken, without "
        f"{', '.join(names[1:])}."
    )


def _held_out(theirs: ForeignConfig, data: dict[str, Any], known: Mapping[str, Any], folder: Path) -> None:
    """Set the evaluation data: a separate file, or rows held out of the training split."""
    tests, size = theirs.words("eval_dataset"), theirs.take("val_size", float, 0.0)
    if not tests:
        if size:
            data["eval_size"] = int(size) if size >= 1 else size
        else:
            theirs.note(
                "val_size: theirs holds no rows out; where the data has no test split, dataset.eval_size (a tenth) of its "
                "rows is held out here, to be asked."
            )
        return
    entries = [_entry(theirs, name, known, folder).stated for name in tests]
    if all("file_name" in entry for entry in entries) and "train_split" not in data and "subset" not in data:
        train = data["name"] if isinstance(data["name"], list) else [data["name"]]
        if all(Path(name).is_file() for name in train):
            data["name"] = {"train": train, "test": [str(folder / entry["file_name"]) for entry in entries]}
            return
    theirs.note(
        f"eval_dataset: {', '.join(tests)} is not beside the training data; ask it by evaluation.benchmarks: [{{name: "
        "perplexity, dataset: {name: …}}]."
    )


def _training(theirs: ForeignConfig) -> dict[str, Any]:
    per_device = theirs.take("per_device_train_batch_size", int, DEFAULT_PER_DEVICE)
    warmup = theirs.value("warmup_steps") or theirs.value("warmup_ratio") or 0
    training: dict[str, Any] = {
        "num_train_epochs": theirs.take("num_train_epochs", float, 3.0),
        **batch(theirs, per_device, theirs.take("gradient_accumulation_steps", int, 1)),
        "learning_rate": theirs.take("learning_rate", float, DEFAULT_RATE),
        "lr_scheduler_type": schedule(theirs, "lr_scheduler_type", "linear"),
        "warmup_steps": warmup,
        "weight_decay": theirs.take("weight_decay", float, 0.0),
        "max_grad_norm": theirs.take("max_grad_norm", float, 1.0),
        "optim": optimizer(theirs, "optim", "adamw_torch"),
    }
    theirs.value("warmup_ratio")
    if theirs.has("max_steps"):
        training["max_steps"] = theirs.value("max_steps")
    lora_plus(theirs, training)
    if not theirs.take("disable_gradient_checkpointing", bool, False):
        training["gradient_checkpointing"] = True  # LLaMA-Factory's default
    theirs.value("gradient_checkpointing")
    for name in ("packing", "neat_packing"):
        if theirs.value(name):
            theirs.note(
                f"{name}: rows are not packed here, so that a step sees global_batch_size rows, not sequences full of "
                "rows: more and smaller steps for the same data."
            )
    if theirs.value("train_on_prompt"):
        theirs.note("train_on_prompt: the prompt is never learned here; stage pt learns whole rows.")
    return training | copy_same_named(theirs)
