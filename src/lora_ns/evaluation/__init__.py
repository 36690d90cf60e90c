"""A model is asked, and its answers are scored."""
