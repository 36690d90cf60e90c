"""Rows -> prompts -> tokens."""
