"""The documents as a site: `make docs`, which runs Sphinx over the pages in the rooms' folders.

The source is the whole tree, so that a link between two pages is the same here and where the files are read as they
are; `include_patterns` says which of them are pages. What can be read off the program is written by `reference.py`.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from reference import write_reference  # noqa: E402

from dail.synth.core.config import TOOL_VERSION  # noqa: E402

project, author, release = "dail", "the authors of dail", TOOL_VERSION
extensions = ["myst_parser", "sphinx_copybutton"]
root_doc = "deploy/docs/index"
include_patterns = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/**.md", "serve/**.md", "synth/**.md", "train/**.md",
    "tests/README.md", "tests/gpu/README.md", "tests/bench/RESULTS.md",
]  # fmt: skip
exclude_patterns = [".venv", "runs", "build"]
myst_heading_anchors = 3  # as the pages link to each other's headings
html_theme = "furo"
html_title = f"dail {release}"
html_extra_path = ["extra"]  # index.html at the top, which leads to the front page
html_show_sourcelink = False
copybutton_prompt_text = "$ "


def setup(app: object) -> None:
    write_reference(HERE / "reference")
