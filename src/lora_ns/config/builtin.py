"""Names, versions and settings of the `builtin:` data sets and base models, which the project generates itself."""

from typing import Any

from lora_ns.config.yaml_io import nearest
from lora_ns.errors import ConfigError

DATASET_VERSIONS = {"word_problems": 1, "paraphrase": 1, "python_functions": 2}
"""Generator in data/sources -> version. Raise it by hand when the rows change. It is part of the digests."""

DATASET_DEFAULTS: dict[str, int] = {"num_train": 1000, "num_validation": 100, "num_test": 200, "seed": 0}
"""Default options of every generator."""

BASE_MODELS: dict[str, dict[str, Any]] = {
    "tiny-llama": {
        "version": 2,
        "kind": "causal_lm",
        "corpus": "pages",
        "seed": 0,
        "vocab_size": 700,
        "tokenizer_documents": 4000,
        "architecture": {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "initializer_range": 0.05,
        },
        "training": {
            "steps": 750,
            "batch_size": 8,
            "sequence_length": 128,
            "muon_learning_rate": 0.01,
            "adamw_learning_rate": 6e-3,
            "warmup_steps": 20,
            "decay_fraction": 0.6,
        },
    },
    "tiny-bert": {
        "version": 3,
        "kind": "encoder",
        "corpus": "briefs",
        "seed": 0,
        "vocab_size": 512,
        "tokenizer_documents": 4000,
        "architecture": {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "initializer_range": 0.05,
        },
        "training": {
            "steps": 600,
            "batch_size": 64,
            "sequence_length": 36,
            "muon_learning_rate": 0.01,
            "adamw_learning_rate": 1e-3,
            "warmup_steps": 20,
            "decay_fraction": 0.6,
            "mask_rate": 0.15,
            "largest_shift": 0,
        },
    },
}
"""Everything that determines a base model's weights. Raise `version` by hand when texts or code change."""


def base_model_spec(name: str) -> dict[str, Any]:
    """Return the spec of `builtin:<name>`.  Raises ConfigError with the nearest known name."""
    short = name.removeprefix("builtin:")
    if short not in BASE_MODELS:
        known = ", ".join(f"builtin:{known}" for known in BASE_MODELS)
        raise ConfigError(f"model.name_or_path: there is no {name!r}.{nearest(short, BASE_MODELS)} Known: {known}.")
    return BASE_MODELS[short]
