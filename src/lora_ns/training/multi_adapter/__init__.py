"""Many adapters trained at once over one frozen base, each as if it were alone.

layout    whose rows are where in the joint batch, and how dropout falls on them
layers    the frozen layer once, every member's low-rank part on its own rows
adamw     one update for all members' parameters, each with its own rate, decay and clipping
members   a run as a member: where it starts, what it takes when, how it is saved
sweep     the loop
"""
