"""Train one adapter or several jointly: set-up, training loop, loss, checkpoints."""
