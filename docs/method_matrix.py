"""Which of PEFT's methods do what, each tried on tiny models:  python docs/method_matrix.py > docs/methods.md

A method is attached, trained for three steps, saved, loaded again and, where it can be, merged.  A new PEFT brings its
methods along: one that wants settings of its own is listed with what it says, until SETTINGS has them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.config import RunConfig, check, known_methods
from lora_ns.errors import ConfigError, LoraNsError
from lora_ns.models.adapter import REFUSALS, apply_method, initial_factors, load_adapter, load_trained, without_adapter
from lora_ns.models.base_model import load_base, make_deterministic
from lora_ns.models.peft_config import reason_of
from lora_ns.models.save_adapter import save_trained
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

STEPS = 3
MERGE_TOLERANCE = 1e-4
MODELS = {"causal_lm": "a two-layer Llama", "classification": "a two-layer BERT"}

SETTINGS: dict[str, dict[str, Any]] = {
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 1},
    "c3a": {"block_size": 8},
    "cpt": {"cpt_token_ids": [5, 6, 7, 8], "cpt_mask": [1, 1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "miss": {"r": 4},
    "multitask_prompt_tuning": {"num_tasks": 1},
    "poly": {"r": 4, "n_tasks": 1, "n_skills": 2},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "trainable_tokens": {"token_indices": [5, 6, 7]},
    "vblora": {"vector_length": 8, "num_vectors": 16},
    "vera": {"r": 4},
    "waveft": {"n_frequency": 64},
}
"""What a method needs on a model of width 32, or at all, beside its defaults."""

TARGETS = {"causal_lm": ["q_proj", "v_proj"], "classification": ["query", "value"]}
OWN_TARGETS = ("adaption_prompt", "trainable_tokens", "shadow")
"""Methods whose target_modules are something else than linear layers, and have defaults."""


@dataclass(frozen=True)
class Outcome:
    """What one method did on one model; a difference is the greatest of any logit."""

    method: str
    task_type: str
    refused: str | None = None
    """Why it does not train; the rest is then None."""
    changed: float | None = None
    """Between the trained model and its base."""
    reloaded: float | None = None
    """Between the trained model and the one that was saved and loaded."""
    merged: float | None = None
    """Between the loaded model and its merge."""
    not_merged: str | None = None
    head_saved: bool | None = None
    """Of a classifier: whether the adapter's file holds the trained head."""


def survey(folder: Path) -> Iterator[Outcome]:
    """Tries every method on both models; scratch goes into the folder."""
    for task_type in MODELS:
        make_tiny(task_type, folder / task_type)
        for method in known_methods():
            if method not in ("none", "full"):
                with warnings.catch_warnings(action="ignore"):  # PEFT remarks on settings that suit no other size
                    yield try_method(method, task_type, folder)


def make_tiny(task_type: str, folder: Path) -> None:
    """A random model of two layers and width 32, as a folder."""
    import torch
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "pad_token_id": 0}
    torch.manual_seed(0)
    if task_type == "causal_lm":
        LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=2, eos_token_id=3)).save_pretrained(folder)
    else:
        BertModel(BertConfig(**shape)).save_pretrained(folder)


def try_method(method: str, task_type: str, folder: Path) -> Outcome:
    """One method on one of the models that `make_tiny` left in the folder."""
    adapter = folder / f"{method}-{task_type}"
    try:
        config = _config(method, task_type, folder)
        batch = _batch(task_type)
        make_deterministic(0)
        model = apply_method(load_base(Run(config, Store(folder))), config, steps=STEPS)
        start = initial_factors(model, config)
        _train(model, batch)
    except (LoraNsError, *REFUSALS) as error:
        return Outcome(method, task_type, refused=_own_words(error))
    expected = _logits(model.eval(), batch)
    save_trained(model, adapter, start)
    loaded = load_trained(Run(config, Store(folder)), adapter).eval()
    found = _logits(loaded, batch)
    with without_adapter(loaded):
        base = _logits(loaded, batch)
    merged, not_merged = None, None
    try:
        plain = load_adapter(load_base(Run(config, Store(folder))), adapter, method).merge_and_unload()
        merged = _difference(found, _logits(plain.eval(), batch))
        if merged > MERGE_TOLERANCE:
            merged, not_merged = None, "PEFT's merge computes something else than base and adapter"
    except REFUSALS as error:
        not_merged = _own_words(error)
    return Outcome(
        method,
        task_type,
        changed=_difference(base, expected),
        reloaded=_difference(expected, found),
        merged=merged,
        not_merged=not_merged,
        head_saved=_has_head(adapter) if task_type == "classification" else None,
    )


def _config(method: str, task_type: str, folder: Path, **settings: Any) -> RunConfig:
    from lora_ns.config.schema import method_fields

    peft: dict[str, Any] = {"method": method, **SETTINGS.get(method, {}), **settings}
    if method not in OWN_TARGETS and "target_modules" in method_fields(method):
        peft["target_modules"] = TARGETS[task_type]
    if method == "ln_tuning":
        peft["target_modules"] = ["norm"] if task_type == "causal_lm" else ["LayerNorm"]
    if "num_virtual_tokens" in method_fields(method) and method != "cpt":
        peft["num_virtual_tokens"] = 4
    if method == "xlora":
        peft["adapters"] = {str(number): path for number, path in enumerate(_experts(task_type, folder))}
    data = {"text_columns": ["text"], "labels": ["no", "yes"]} if task_type == "classification" else {}
    templates = {"response_template": "{text}"} if task_type == "causal_lm" else {}
    return check(
        {
            "task_name": "survey",
            "task_type": task_type,
            "model": {"name_or_path": str(folder / task_type)},
            "peft": peft,
            "dataset": {"name": "none/none", **data, **templates},
        },
        method,
    )


def _experts(task_type: str, folder: Path) -> list[str]:
    """Two LoRA adapters, which X-LoRA mixes."""
    paths = [folder / f"expert{number}-{task_type}" for number in range(2)]
    for number, path in enumerate(paths):
        config = _config("lora", task_type, folder, init_lora_weights=False)
        make_deterministic(number)
        save_trained(apply_method(load_base(Run(config, Store(folder))), config), path)
    return [str(path) for path in paths]


def _batch(task_type: str) -> dict[str, Any]:
    import torch

    ids = torch.randint(5, 400, (2, 12), generator=torch.Generator().manual_seed(0))
    ids[0, :3] = torch.tensor([5, 6, 7])  # those that `trainable_tokens` trains
    labels = ids.clone() if task_type == "causal_lm" else torch.tensor([0, 1])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _train(model: Any, batch: dict[str, Any]) -> None:
    import torch

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for step in range(STEPS):
        loss = model(**batch).loss
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {float(loss)}")
        loss.backward()
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()


def _logits(model: Any, batch: dict[str, Any]) -> Any:
    """Of the batch's own tokens: methods that add virtual ones return logits for these too."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, -batch["input_ids"].shape[1] :] if logits.dim() == 3 else logits


def _difference(a: Any, b: Any) -> float:
    return float((a - b).abs().max())


def _has_head(adapter: Path) -> bool:
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        return any("classifier" in name for name in file.keys())  # noqa: SIM118


def _own_words(error: BaseException) -> str:
    """PEFT's reason where it gives one, else that for which the config was refused, without where it stood."""
    reason = reason_of(error.__cause__ or error)
    if isinstance(error, ConfigError) and error.__cause__ is None:
        reason = reason.split(": ", 2)[-1]
    if "has no attribute 'merge_and_unload'" in reason:
        return "PEFT has no merge for it"
    return f"{reason} (PEFT says no more)" if reason == type(error).__name__ else reason


def as_markdown(outcomes: list[Outcome]) -> str:
    """The outcomes as a table, one line a method; figures that differ between machines are left out."""
    lines = ["| method | causal model | encoder | merge |", "|---|---|---|---|"]
    notes: list[str] = []
    by_method: dict[str, dict[str, Outcome]] = {}
    for outcome in outcomes:
        by_method.setdefault(outcome.method, {})[outcome.task_type] = outcome

    def mark(text: str | None) -> str:
        if text is None:
            return "yes"
        if text not in notes:
            notes.append(text)
        return f"no [{notes.index(text) + 1}]"

    for method, found in sorted(by_method.items()):
        trains = [mark(found[task].refused) for task in MODELS]
        merges = [mark(o.not_merged) for o in found.values() if o.refused is None]
        distinct = list(dict.fromkeys(merges))
        kinds = [task for task in MODELS if found[task].refused is None]
        merge = (
            distinct[0]
            if len(distinct) == 1
            else ", ".join(
                f"{'causal model' if task == 'causal_lm' else 'encoder'}: {word}"
                for task, word in zip(kinds, merges, strict=True)
            )
        )
        lines.append(f"| `{method}` | {trains[0]} | {trains[1]} | {merge or '–'} |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, start=1)), ""])


def page(outcomes: list[Outcome], method_files: Path) -> str:
    """The page of the docs: the method files with what they say of themselves, then what each method of PEFT did."""
    import peft

    lines = [
        "# Methods",
        "",
        "Made by `python docs/method_matrix.py > docs/methods.md`; a test holds it to what comes out.",
        "",
        "## Method files",
        "",
        "Each is the `peft:` section of one method, with what goes with it: `lora-ns train --config TASK --method FILE`, or a",
        "line of an experiment's `methods:`.",
        "",
        "| file | what it is, and when to choose it |",
        "|---|---|",
    ]
    lines += [
        f"| [`{path.stem}`](../configs/methods/{path.name}) | {_comment(path)} |" for path in sorted(method_files.glob("*.yaml"))
    ]
    lines += [
        "",
        "## Every method of PEFT",
        "",
        f"`peft.method` takes every method of the installed PEFT (here {peft.__version__}) with the fields of its own config",
        f"class. Each was attached, trained for {STEPS} steps, saved, loaded again (no logit differs) and, where it can be,",
        f"merged (no logit differs by more than {MERGE_TOLERANCE:g} in float32): on {MODELS['causal_lm']}, and on",
        f"{MODELS['classification']} that classifies, whose trained head must be in the saved adapter.",
        "",
        as_markdown(outcomes),
    ]
    return "\n".join(lines)


def _comment(path: Path) -> str:
    """The opening comment of a method file as one line."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# yaml-language-server:"):
            continue
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# "))
    return " ".join(words).replace("|", "\\|").replace("  ", " ")


def main() -> None:
    """Prints the page; half a minute."""
    from tempfile import TemporaryDirectory

    from lora_ns.models.imports import prepare_imports

    prepare_imports()
    with TemporaryDirectory() as folder:
        print(page(list(survey(Path(folder))), Path(__file__).parents[1] / "configs/methods"), end="")


if __name__ == "__main__":
    main()
