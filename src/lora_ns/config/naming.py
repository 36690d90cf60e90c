"""Converts names to path components."""

import re


def slug(name: str) -> str:
    """Return a name as a path component: letters, digits, `_`, `.` and single dashes, never `..` or a hidden file."""
    text = re.sub(r"[^A-Za-z0-9_.]+", "-", name.rstrip("/").split("/")[-1].split(":")[-1]).strip("-.")
    return text[:48] or "unnamed"
