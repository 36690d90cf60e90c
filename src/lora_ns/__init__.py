"""lora-ns: which parameter-efficient fine-tuning method is better on your task, by how much, at what cost."""

__version__ = "0.1.0"
