"""Merge one adapter or several into their base model."""
