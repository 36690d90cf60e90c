"""Adapters -> merged models and adapters made of several."""
