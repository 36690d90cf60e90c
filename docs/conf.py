"""How the site is built: `make docs`.  Nothing is fetched, neither while building nor by the pages."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import house  # noqa: E402
import reference_pages  # noqa: E402

project = "lora-ns"
extensions = ["myst_parser"]
exclude_patterns = ["README.md"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
nitpicky = True
html_theme = "furo"
html_title = "lora-ns"
html_copy_source = False
html_show_sphinx = False


def setup(app):
    """The reference and the picture of the house are made from the code before the pages are read."""
    house.write(HERE / "reference")
    reference_pages.write(HERE / "reference")
