"""Artefacts: their digests, names, paths and records."""
