"""Whether the base model has what the method and the task want of it: from its config, without its weights."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_ns.config import RunConfig, nearest
from lora_ns.config.schema import METHODS_WITHOUT_PEFT, method_fields
from lora_ns.errors import ConfigError
from lora_ns.models.base_model import check_positions, head_of, refuse_encoder
from lora_ns.workflow.preflight.finding import Finding, advice

NAMED_MODULES = 12
RESERVED_POSITIONS = 2
"""Position ids that some models (RoBERTa, OPT) reserve."""


@dataclass(frozen=True)
class Shell:
    """The base model of a config, without memory for its weights (on torch's meta device)."""

    config: RunConfig
    place: Path

    @cached_property
    def model(self) -> Any:
        """Build the model on the meta device.  Raises ConfigError with the loader's reason."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

        wanted, causal = self.config.model, self.config.task_type == "causal_lm"
        loader: Any = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
        try:
            arguments = {} if causal else head_of(self.config)
            found = AutoConfig.from_pretrained(self.place, trust_remote_code=wanted.trust_remote_code, **arguments)
            with torch.device("meta"):
                return loader.from_config(found, trust_remote_code=wanted.trust_remote_code)
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"model.name_or_path: {wanted.name_or_path!r} cannot be built: {reason}") from None

    @cached_property
    def modules(self) -> dict[str, Any]:
        """Name -> module, without the model itself."""
        return {name: module for name, module in self.model.named_modules() if name}

    def linear(self) -> list[str]:
        """Return the last name parts of the linear layers, each once, without the output layer."""
        import torch
        from transformers.pytorch_utils import Conv1D

        output = self.model.get_output_embeddings()
        found = (name for name, m in self.modules.items() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not output)
        return list(dict.fromkeys(name.rpartition(".")[2] for name in found))


def check_base_model(config: RunConfig, shell: Shell, longest: int) -> Iterator[Finding]:
    """What the model lacks.  longest: tokens of the longest row, 0 where no row was looked at."""
    if not _is_in_question(config, shell.place, longest):
        return
    try:
        if config.task_type == "causal_lm":
            refuse_encoder(shell.model.config, config.model)
        check_positions(shell.model, longest, config)
    except ConfigError as error:
        yield Finding(str(error))
        return
    if config.peft.method not in METHODS_WITHOUT_PEFT:
        yield from _of_targets(config, shell)
        yield from _of_saved(config, shell)


def _is_in_question(config: RunConfig, place: Path, longest: int) -> bool:
    """Whether the model must be built for the checks. For most configs, config.json already shows that it fits."""
    try:
        said = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # which the loader explains
    fields, kinds = config.peft.fields, said.get("architectures") or []
    names_layers = fields.get("target_modules") != "all-linear" and "target_modules" in method_fields(config.peft.method)
    names_layers |= any(fields.get(key) for key in ("modules_to_save", "rank_pattern", "alpha_pattern"))
    may_be_encoder = config.task_type == "causal_lm" and not any(kind.endswith("ForCausalLM") for kind in kinds)
    room = said.get("max_position_embeddings") or 0
    is_long = longest + RESERVED_POSITIONS + int(fields.get("num_virtual_tokens") or 0) > room
    return names_layers or may_be_encoder or is_long


def _of_targets(config: RunConfig, shell: Shell) -> Iterator[Finding]:
    """Yield findings about target_modules that match no layer. As in PEFT, a list matches name ends, a string is a regex."""
    fields, targets = config.peft.fields, config.peft.fields.get("target_modules")
    if targets is None and not fields.get("target_parameters"):
        yield from _of_unnamed(config, shell)
    if targets in (None, "all-linear"):
        return
    where = f"peft.target_modules: {config.model.name_or_path} has no"
    if isinstance(targets, str):
        try:
            found = [name for name in shell.modules if re.fullmatch(targets, name)]
        except re.error as error:
            yield Finding(f"peft.target_modules: {targets!r} is no pattern: {error}.")
            return
        if not found:
            near = nearest(targets.replace("_", "-"), ["all-linear"]) or nearest(targets, shell.linear())
            yield Finding(f"{where} layer whose whole name is {targets!r}.{near} {_named(shell)}")
        return
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in shell.modules):
            yield Finding(f"{where} layer {target!r}.{nearest(target, shell.linear())} {_named(shell)}")
    yield from _of_excluded(config, shell, targets)


def _of_unnamed(config: RunConfig, shell: Shell) -> Iterator[Finding]:
    """Yield a finding if target_modules is missing and PEFT has no default for this architecture."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(config.peft.method.upper()))
    known = getattr(tuner, "target_module_mapping", None)
    kind = shell.model.config.model_type
    if known and kind not in known:
        yield Finding(
            f"peft.target_modules: is missing; PEFT's {config.peft.method} does not know the layers of {kind} models by "
            f"itself. {_named(shell)}"
        )


def _of_excluded(config: RunConfig, shell: Shell, targets: Sequence[str]) -> Iterator[Finding]:
    excluded = config.peft.fields.get("exclude_modules")
    if isinstance(excluded, list) and set(targets) <= set(excluded):
        yield Finding("peft.exclude_modules: names every one of peft.target_modules, so that nothing is trained.")


def _of_saved(config: RunConfig, shell: Shell) -> Iterator[Finding]:
    """Yield findings about modules_to_save and rank or alpha patterns without a match, which PEFT ignores silently."""
    fields = config.peft.fields
    for name in fields.get("modules_to_save") or []:
        if not any(known == name or known.endswith(f".{name}") for known in shell.modules):
            last = list(dict.fromkeys(known.rpartition(".")[2] for known in shell.modules))
            yield Finding(f"peft.modules_to_save: {config.model.name_or_path} has no module {name!r}.{nearest(name, last)}")
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in fields.get(key) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in shell.modules):
                yield advice(f"peft.{key}: {pattern!r} matches no layer of {config.model.name_or_path}.")


def _named(shell: Shell) -> str:
    names = shell.linear()
    more = " …" if len(names) > NAMED_MODULES else ""
    return f"Its linear layers: {', '.join(names[:NAMED_MODULES])}{more}; all-linear names them all."
