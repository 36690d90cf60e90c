"""Rows become prompts, and prompts become tokens."""
