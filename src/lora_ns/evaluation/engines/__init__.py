"""Ways to generate text: continuous batches, transformers' `generate`, a vLLM server."""
