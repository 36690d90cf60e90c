"""Import of an axolotl config as a task config.

The module is long because every key of theirs is named once.

theirs   {base_model: m, adapter: qlora, datasets: [{path: d, type: alpaca}], micro_batch_size: 2, …}
ours     {model: {name_or_path: m, quantization: 4bit}, dataset: {name: d, format: alpaca}, training: {…}, …}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.config import read_mapping
from lora_ns.config.importers.foreign_config import ForeignConfig, batch, checked, copy_same_named, lora_plus, optimizer, schedule
from lora_ns.config.naming import slug
from lora_ns.errors import ConfigError

WATCHING = frozenset(
    """
    base_model_config base_model_ignore_patterns model_type tokenizer_type tokenizer_config tokenizer_use_fast
    is_llama_derived_model is_mistral_derived_model is_qwen_derived_model strict
    dataset_prepared_path dataset_processes dataset_keep_in_memory dataset_exact_deduplication push_dataset_to_hub
    hub_model_id hub_strategy hf_use_auth_token wandb_project wandb_entity wandb_watch wandb_name wandb_run_id
    wandb_log_model wandb_mode use_wandb mlflow_tracking_uri mlflow_experiment_name mlflow_run_name hf_mlflow_log_artifacts
    use_mlflow use_tensorboard use_comet comet_project_name comet_workspace output_dir auto_resume_from_checkpoints
    saves_per_epoch evals_per_epoch eval_batch_size eval_table_size eval_max_new_tokens eval_sample_packing
    eval_causal_lm_metrics evaluation_strategy save_safetensors save_first_step merge_lora bfloat16 tf32 local_rank
    ddp_timeout device device_map gpu_memory_limit max_memory lora_on_cpu low_cpu_mem_usage profiler_steps debug
    flash_attention xformers_attention flex_attention s2_attention flash_attn_cross_entropy flash_attn_rms_norm
    flash_attn_fuse_qkv flash_attn_fuse_mlp unsloth_cross_entropy_loss unsloth_lora_mlp unsloth_lora_qkv unsloth_lora_o
    lora_mlp_kernel lora_qkv_kernel lora_o_kernel plugins liger_rope liger_rms_norm liger_glu_activation
    liger_layer_norm liger_fused_linear_cross_entropy cut_cross_entropy torch_compile torch_compile_backend
    pad_to_sequence_len sample_packing_group_size sample_packing_bin_size shuffle_merged_datasets experimental_skip_move_to_device
    total_num_tokens sample_packing_eff_est use_ray ray_num_workers tensor_parallel_size sequence_parallel_degree
    context_parallel_size dp_shard_size fsdp_version loss_watchdog_threshold loss_watchdog_patience
    """.split()
)
"""Keys for logging, storage, speed and devices, and keys that follow from the base model. None affects the result."""

OTHER_TRAINING = ("rl", "reward_model", "process_reward_model", "relora_steps")
"""Keys that request training other than supervised fine-tuning."""

DEFAULT_LENGTH, DEFAULT_SEED = 512, 42


def from_axolotl(path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return (content of the task config, remarks).  Raises ConfigError where the file needs an unsupported feature."""
    theirs = ForeignConfig(read_mapping(path))
    other = [key for key in OTHER_TRAINING if theirs.value(key)]
    if other:
        raise ConfigError(f"{path}: {other[0]}: {theirs.stated[other[0]]!r} is not trained here, only answers and text.")
    if not theirs.has("base_model"):
        raise ConfigError(f"{path}: base_model is missing: is this a config of axolotl?")
    ours = {
        "task_name": slug(path.stem),
        "task_type": "causal_lm",
        "model": _model(theirs),
        "peft": _peft(theirs),
        "dataset": _dataset(theirs),
        "training": _training(theirs),
        "evaluation": {"benchmarks": _benchmarks(theirs)},
        "seed": theirs.take("seed", int, DEFAULT_SEED),
    }
    theirs.note_left(WATCHING)
    return checked(ours, overrides or {}, theirs, path), theirs.notes


def _model(theirs: ForeignConfig) -> dict[str, Any]:
    model: dict[str, Any] = {"name_or_path": theirs.take("base_model", str, "")}
    revision = theirs.value("revision_of_model") or theirs.value("model_revision")
    if revision is not None:
        model["revision"] = revision
    half = [theirs.value(key) for key in ("bf16", "bfloat16")]
    if any(value not in (None, False) for value in half):
        model["dtype"] = "bfloat16"
    elif any(theirs.value(key) for key in ("fp16", "float16")):
        model["dtype"] = "float16"
    else:
        model["dtype"] = "float32"
    four = theirs.take("load_in_4bit", bool, theirs.stated.get("adapter") == "qlora")
    eight = theirs.take("load_in_8bit", bool, False)
    if four or eight:
        model["quantization"] = "4bit" if four else "8bit"
    if theirs.value("sdp_attention"):
        model["attn_implementation"] = "sdpa"
    if theirs.value("eager_attention"):
        model["attn_implementation"] = "eager"
    if theirs.value("trust_remote_code"):
        theirs.note("trust_remote_code: left off; model.trust_remote_code: true runs code that comes with a model.")
    return model


def _peft(theirs: ForeignConfig) -> dict[str, Any]:
    adapter = theirs.value("adapter")
    if adapter is None:
        return {"method": "full"}
    if adapter not in ("lora", "qlora"):
        raise ConfigError(f"adapter: expected lora, qlora or nothing, found {adapter!r}.")
    peft: dict[str, Any] = {"method": "lora", "target_modules": _targets(theirs)}
    names = {"lora_r": "r", "lora_alpha": "lora_alpha", "peft_init_lora_weights": "init_lora_weights"}
    names |= {"lora_modules_to_save": "modules_to_save", "peft_layers_to_transform": "layers_to_transform"}
    names |= {"peft_layer_replication": "layer_replication", "lora_target_parameters": "target_parameters"}
    peft |= {ours: theirs.value(name) for name, ours in names.items() if theirs.has(name)}
    peft["lora_dropout"] = theirs.take("lora_dropout", float, 0.0)
    flags = {"peft_use_dora": "use_dora", "peft_use_rslora": "use_rslora", "lora_fan_in_fan_out": "fan_in_fan_out"}
    peft |= {ours: True for name, ours in flags.items() if theirs.value(name)}
    return peft


def _targets(theirs: ForeignConfig) -> Any:
    named, linear = theirs.value("lora_target_modules"), theirs.take("lora_target_linear", bool, False)
    if not linear:
        return named  # None: PEFT's default for the architecture
    if named:
        theirs.note(f"lora_target_modules: {named!r} beside lora_target_linear: all linear layers are taken, no other.")
    return "all-linear"


def _dataset(theirs: ForeignConfig) -> dict[str, Any]:
    text_only = theirs.value("pretraining_dataset")
    entries = theirs.value("datasets") or _as_entries(text_only)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries) or not entries:
        raise ConfigError(f"datasets: expected a list of data sets, found {entries!r}.")
    first = theirs.part(entries[0], "datasets[0].")
    data = {**_source(first), **_shape(theirs, first)}
    _join(theirs, data, [dict(entry) for entry in entries])
    tests = theirs.value("test_datasets")
    if isinstance(tests, list) and tests and isinstance(tests[0], Mapping):
        _name_test_set(theirs, data, theirs.part(tests[0], "test_datasets[0]."))
    held_out = theirs.value("val_set_size")
    if held_out and not tests:
        data["eval_size"] = held_out
    elif not tests:
        theirs.note(
            "val_set_size: theirs holds no rows out; where the data has no test split, dataset.eval_size (a tenth) of its "
            "rows is held out here, to be asked."
        )
    data["max_length"] = theirs.take("sequence_len", int, DEFAULT_LENGTH)
    first.note_left()
    return data


def _as_entries(text_only: Any) -> Any:
    """Return `pretraining_dataset` (a name or a list of entries) as entries of type completion."""
    if isinstance(text_only, str):
        return [{"path": text_only, "type": "completion"}]
    return [{"type": "completion", **entry} for entry in text_only or []]


def _source(entry: ForeignConfig) -> dict[str, Any]:
    """Return the dataset keys that say where an entry's rows come from."""
    path, files = entry.take("path", str, ""), entry.value("data_files")
    kind = entry.value("ds_type")
    if files and (path in ("json", "csv", "parquet", "text") or Path(path).exists()):
        data: dict[str, Any] = {"name": files}
    else:
        data = {"name": path}
        if files:
            entry.note(f"{entry.within}data_files: {files!r} of a hub set has no counterpart; the whole set is taken.")
    names = data["name"] if isinstance(data["name"], list) else [data["name"]]
    if kind and not any(Path(str(name)).suffix in (".jsonl", ".json", ".csv", ".parquet") for name in names):
        data["file_kind"] = {"json": "jsonl", "text": "lines"}.get(kind, kind)
    split = entry.take("split", str, "train")
    data["train_split"] = split.split("[")[0]
    if "[" in split:
        entry.note(f"{entry.within}split: of {split!r} the whole of {data['train_split']} is taken (dataset.max_samples).")
    for key, ours in {"name": "subset", "revision": "revision"}.items():
        if entry.has(key):
            data[ours] = entry.value(key)
    return {key: value for key, value in data.items() if (key, value) != ("train_split", "train")}


def _shape(theirs: ForeignConfig, entry: ForeignConfig) -> dict[str, Any]:
    """Return the dataset keys for the row format, templates and columns of an entry."""
    kind = entry.value("type")
    template = _chat_template(theirs, entry)
    if isinstance(kind, Mapping):
        return _own_template(entry.part(kind, "type."))
    name = str(kind).split(":")[0].split(".")[0]
    if name == "completion":
        return {"format": "text", "text_columns": [entry.take("field", str, "text")]}
    if name == "alpaca":
        if str(kind) != name:
            entry.note(f"{entry.within}type: {kind!r} is put in another wording there; alpaca's own is taken.")
        entry.note(
            f"{entry.within}type: alpaca: an answer stands right behind `### Response:` here, as Stanford's alpaca had it, "
            "and on a line of its own there; format plain with a prompt_template says it otherwise."
        )
        return {"format": "alpaca"}
    if name in ("chat_template", "sharegpt"):
        return {**_conversations(entry, name), "chat_template": template}
    entry.note(
        f"{entry.within}type: {kind!r} has no counterpart; say after the file what a row is (dataset.format, or "
        "dataset.prompt_template and dataset.response_template)."
    )
    return {}


def _own_template(kind: ForeignConfig) -> dict[str, Any]:
    """Return the templates of a custom prompt: {format: "[INST] {instruction} [/INST]", field_output: answer, …}"""
    fields = {part: kind.take(f"field_{part}", str, part) for part in ("instruction", "input", "output")}
    template = kind.take("no_input_format", str, "")
    full = kind.take("format", str, "{instruction}")
    if template and full != template:
        kind.note(f"{kind.within}no_input_format: one template a task here; `format`, with the input, is taken.")
    kind.note_left()
    for part in ("instruction", "input"):
        full = full.replace("{" + part + "}", "{" + fields[part] + "}")
    return {"format": "plain", "prompt_template": full, "response_template": "{" + fields["output"] + "}"}


def _conversations(entry: ForeignConfig, kind: str) -> dict[str, Any]:
    """Return format and columns of conversation rows. The key that names the speaker decides the format."""
    older = "conversations" if kind == "sharegpt" else "messages"
    column = entry.take("field_messages", str, older)
    names = entry.take("message_property_mappings", dict, {})
    default = ("from", "value") if column == "conversations" else ("role", "content")
    role = entry.value("message_field_role") or names.get("role") or default[0]
    content = entry.value("message_field_content") or names.get("content") or default[1]
    shapes = {("from", "value"): ("sharegpt", "conversations"), ("role", "content"): ("messages", "messages")}
    if (role, content) not in shapes:
        raise ConfigError(
            f"{entry.within}message_property_mappings: a turn is {{from, value}} or {{role, content}} here, not "
            f"{{{role}, {content}}}; rename the keys in the data."
        )
    form, ours = shapes[(role, content)]
    said = entry.value("roles_to_train")
    if said not in (None, ["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"]):
        entry.note(f"{entry.within}roles_to_train: {said!r}: the assistant's turns alone are learned here.")
    return {"format": form, **({"columns": {ours: column}} if column != ours else {})}


def _chat_template(theirs: ForeignConfig, entry: ForeignConfig) -> str:
    """Return the chat template. A named template becomes the tokenizer's own, since it is named after that model."""
    jinja = entry.value("chat_template_jinja") or theirs.value("chat_template_jinja")
    if theirs.value("default_system_message"):
        theirs.note(
            "default_system_message: no counterpart; put it into each row's messages, or into a .jinja file of your own "
            "(dataset.chat_template)."
        )
    name = str(entry.value("chat_template") or theirs.value("chat_template") or "tokenizer_default")
    theirs.value("chat_template")
    if jinja:
        return str(jinja)
    if not name.startswith("tokenizer_default"):
        theirs.note(
            f"chat_template: {name}: the tokenizer's own template is taken (dataset.chat_template: tokenizer); tulu, or a "
            ".jinja file, where that is another."
        )
    return "tokenizer"


def _join(theirs: ForeignConfig, data: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Join several local files of one format into one list. Otherwise only the first data set is used."""
    rest = entries[1:]
    if not rest:
        return
    shape = {key: value for key, value in entries[0].items() if key not in ("path", "data_files")}
    alike = all({k: v for k, v in entry.items() if k not in ("path", "data_files")} == shape for entry in rest)
    files = [data["name"], *(entry.get("data_files") or entry.get("path") for entry in rest)]
    if alike and all(isinstance(file, str) and Path(file).is_file() for file in files):
        data["name"] = files
        return
    theirs.note(
        f"datasets: a task has one data set here, or several local files of one shape: only the first of {len(entries)} "
        f"is taken, without {', '.join(str(entry.get('path')) for entry in rest)}."
    )


def _name_test_set(theirs: ForeignConfig, data: dict[str, Any], test: ForeignConfig) -> None:
    """Add the test set: as a split where the source is the same, or as a second local file."""
    other = _source(test)
    split = test.take("split", str, "train")
    test.value("type")
    if other["name"] == data["name"] and split != data.get("train_split", "train"):
        data["eval_split"] = split
    elif all(isinstance(name, str) and Path(name).is_file() for name in (data["name"], other["name"])):
        data["name"] = {"train": [data["name"]], "test": [other["name"]]}
    else:
        theirs.note(
            f"test_datasets: {other['name']} is not beside the training data; ask it by evaluation.benchmarks: "
            "[{name: perplexity, dataset: {name: …}}]."
        )


def _benchmarks(theirs: ForeignConfig) -> list[str]:
    theirs.note("evaluation.benchmarks: perplexity of the held-out answers, their eval_loss; name what else is to be asked.")
    return ["perplexity"]


def _training(theirs: ForeignConfig) -> dict[str, Any]:
    per_device = theirs.take("micro_batch_size", int, 1)
    accumulation = theirs.take("gradient_accumulation_steps", int, 1)
    if theirs.has("batch_size") and not theirs.has("gradient_accumulation_steps"):
        accumulation = max(1, theirs.take("batch_size", int, per_device) // per_device)
    theirs.value("batch_size")
    training: dict[str, Any] = {
        "num_train_epochs": theirs.take("num_epochs", float, 1.0),
        **batch(theirs, per_device, accumulation),
        "learning_rate": theirs.value("learning_rate"),
        "lr_scheduler_type": schedule(theirs, "lr_scheduler", "cosine"),
        "warmup_steps": _warmup(theirs),
        "weight_decay": theirs.take("weight_decay", float, 0.0),
        "max_grad_norm": theirs.take("max_grad_norm", float, 1.0),
        "optim": optimizer(theirs, "optimizer", "adamw_torch_fused"),
    }
    if theirs.has("max_steps"):
        training["max_steps"] = theirs.value("max_steps")
    if training["learning_rate"] is None:
        del training["learning_rate"]
        theirs.note("learning_rate: nothing is said; the usual one is taken.")
    lora_plus(theirs, training)
    _checkpointing(theirs, training)
    if theirs.value("sample_packing"):
        theirs.note(
            "sample_packing: rows are not packed here, so that a step sees global_batch_size rows, not sequences full of "
            "rows: more and smaller steps for the same data."
        )
    if theirs.value("train_on_inputs"):
        theirs.note("train_on_inputs: the prompt is never learned here; format text learns whole rows.")
    return training | copy_same_named(theirs)


def _warmup(theirs: ForeignConfig) -> float:
    """Return warm-up steps or their share of all steps; default: axolotl's 3 % (of at most 100 steps)."""
    steps, ratio = theirs.value("warmup_steps"), theirs.value("warmup_ratio")
    if steps is not None:
        return steps
    return ratio if ratio is not None else 0.03


def _checkpointing(theirs: ForeignConfig, training: dict[str, Any]) -> None:
    value = theirs.value("gradient_checkpointing")
    if value:
        training["gradient_checkpointing"] = True
        if value is not True:
            theirs.note(f"gradient_checkpointing: {value!r} became true: activations are not moved off the device here.")
