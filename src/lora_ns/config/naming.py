"""Names as parts of a path."""

import re


def slug(name: str) -> str:
    """A name as a part of a path: letters, digits, `_`, `.` and single dashes; never hidden, never a way out."""
    text = re.sub(r"[^A-Za-z0-9_.]+", "-", name.rstrip("/").split("/")[-1].split(":")[-1]).strip("-.")
    return text[:48] or "unnamed"
