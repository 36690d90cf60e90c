"""Several LoRA adapters trained at once over one frozen base model, each as if it were alone.

grouping  which runs can be trained together
runner    trains the groups, and runs that cannot be grouped one after another
loop      the training loop of a group
members   one run of a group: initial weights, batches, checkpoint, saving
layout    which member owns which rows of the joint batch, and how dropout is drawn for each
layers    the frozen layer once for all rows, each member's low-rank part for its own rows
adamw     one optimiser step for all members, each with its own learning rate, weight decay and clipping
"""
