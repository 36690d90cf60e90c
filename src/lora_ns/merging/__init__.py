"""Adapters become merged models, or one adapter made of several."""
