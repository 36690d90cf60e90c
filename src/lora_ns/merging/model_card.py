"""The README of a merged model: its base model, adapters and settings, and its logit difference from them."""

from collections.abc import Mapping
from typing import Any

from lora_ns.config import RunConfig, write_yaml


def model_card(config: RunConfig, facts: Mapping[str, Any]) -> str:
    """Return the model card as Markdown.

    facts: adapters [(name, weight)], rows (name of the rows artefact), commit, dirty, packages, parity, dtype.
    """
    return "\n".join([*_front_matter(config), *_what(config, facts), *_how_made(config, facts), *_parity(config, facts)])


def _front_matter(config: RunConfig) -> list[str]:
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if config.task_type == "causal_lm" else "text-classification",
        "tags": ["lora-ns", config.peft.method],
    }
    if not config.model.name_or_path.startswith(("builtin:", ".", "/", "~")):
        head = {"base_model": config.model.name_or_path, **head}
    return ["---", write_yaml(head).rstrip(), "---", ""]


def _what(config: RunConfig, facts: Mapping[str, Any]) -> list[str]:
    loader = "AutoModelForCausalLM" if config.task_type == "causal_lm" else "AutoModelForSequenceClassification"
    several = len(facts["adapters"]) > 1
    made = "several adapters" if several else "the weights" if config.peft.method == "full" else "an adapter"
    return [
        f"# {config.task_name}: {config.model.name_or_path} with {config.method}",
        "",
        f"`{config.model.name_or_path}` with {made} trained for the task `{config.task_name}` folded into it. It loads without",
        f"PEFT: `{loader}.from_pretrained(folder)`; weights are {facts['dtype']} safetensors.",
        "",
    ]


def _how_made(config: RunConfig, facts: Mapping[str, Any]) -> list[str]:
    revision = config.model.revision or "not pinned"
    lines = [
        "## What made it",
        "",
        "| | |",
        "|---|---|",
        f"| base model | `{config.model.name_or_path}`, revision {revision}, {config.model.quantization} quantisation |",
    ]
    for name, weight in facts["adapters"]:
        lines.append(f"| {'adapter, weight ' + format(weight, 'g') if len(facts['adapters']) > 1 else 'run'} | `{name}` |")
    if len(facts["adapters"]) > 1:
        density = f", density {config.merge.density:g}" if config.merge.density else ""
        lines.append(f"| combination | {config.merge.combination}{density} |")
    else:
        lines.append(f"| data | `{_data_name(config)}`, as `{facts['rows']}` |")
    dirty = ", with changes that are not committed" if facts["dirty"] else ""
    packages = facts["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if packages.get(name))
    lines += [f"| code | commit `{facts['commit'] or 'unknown'}`{dirty} |", f"| packages | {versions} |", ""]
    if len(facts["adapters"]) == 1:
        settings = {
            "peft": config.peft.model_dump(),
            "training": config.training.model_dump(exclude_none=True),
            "seed": config.seed,
        }
        lines += ["## Settings of the run", "", "```yaml", write_yaml(settings).rstrip(), "```", ""]
    return lines


def _data_name(config: RunConfig) -> str:
    name, revision = config.dataset.name, config.dataset.revision
    text = name if isinstance(name, str) else ", ".join(str(part) for part in name)
    return f"{text}@{revision}" if revision else text


def _parity(config: RunConfig, facts: Mapping[str, Any]) -> list[str]:
    figures = facts["parity"]
    lines = [
        "## How far it is from its parts",
        "",
        f"Logits on {figures['probes']} fixed texts, against {figures['against']}:",
        "",
        "| greatest difference | mean difference | greatest logit | same likeliest answer | divergence (nats) |",
        "|---:|---:|---:|---:|---:|",
        f"| {figures['max_logit_difference']:.3g} | {figures['mean_logit_difference']:.3g} | {figures['max_logit']:.3g} "
        f"| {figures['same_choice']:.1%} | {figures['mean_divergence']:.3g} |",
        "",
    ]
    if figures.get("adapter_effect") is not None:
        lines += [f"For scale: the adapter itself moves a logit by up to {figures['adapter_effect']:.3g}.", ""]
    if config.model.quantization != "none":
        lines += [
            f"The base was {config.model.quantization} while the adapter was trained. Its weights were dequantised before the "
            "merge and are stored unquantised; the difference above is what that costs.",
            "",
        ]
    return lines
