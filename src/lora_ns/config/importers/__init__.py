"""Import of other tools' configs, with remarks on settings that cannot be carried over.

foreign_config.py   the other tool's file: keys read, keys left over, remarks
axolotl.py          axolotl
llama_factory.py    LLaMA-Factory, with its dataset_info.json
peft_comparison.py  a folder of PEFT's method comparison

The key names are the tools' documented settings.  If a file omits one, the tool's own default is written to our config,
so that no default of ours applies.
"""
