"""Base models and the methods that are put on them."""
