"""Turn rows into prompts, and prompts into tokens."""
