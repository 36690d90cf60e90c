"""Configs: typed schema, loading, overrides, checks.  Never imports torch."""

from lora_ns.config.base import Section
from lora_ns.config.constraints import format_problems, settled, template_columns
from lora_ns.config.dataset import CHAT_FORMATS, FILE_KINDS, FORMAT_COLUMNS, DatasetConfig, file_kind
from lora_ns.config.evaluation import BenchmarkEntry, EvaluationConfig, GenerationConfig
from lora_ns.config.load import check, load_config, read_method, read_task, with_method
from lora_ns.config.schema import (
    OUTSIDE_DIGEST,
    MergeConfig,
    ModelConfig,
    PeftSection,
    RunConfig,
    TrainingConfig,
    known_methods,
    method_fields,
)
from lora_ns.config.yaml_io import expand_dotted, merge, nearest, parse_overrides, parse_yaml, read_mapping, write_yaml
