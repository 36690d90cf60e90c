"""Configs of other tools as our own, and what of them could not be carried.

foreign_config.py   a foreign file: which keys were read, which are left, what to report about them
axolotl.py          axolotl
llama_factory.py    LLaMA-Factory, with its dataset_info.json
peft_comparison.py  a folder of PEFT's method comparison

The key names are those tools' documented settings; where a file leaves one out, the tool's own default is stated, so that
no default of ours comes in its place.
"""
