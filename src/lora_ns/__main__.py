"""`python -m lora_ns`, the same as `lora-ns`."""

from lora_ns.cli import main

main()
