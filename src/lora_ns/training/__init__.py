"""One adapter, or several at once: set-up, loop, loss, checkpoints."""
