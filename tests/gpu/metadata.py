"""Writes what `importlib.metadata` is asked about the project where it is not installed: version and requirements.

python3 metadata.py PYPROJECT FOLDER      → FOLDER/dail-VERSION.dist-info/METADATA
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def write(pyproject: Path, folder: Path) -> None:
    project = tomllib.loads(pyproject.read_text())["project"]
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    lines += [f"Requires-Dist: {one}" for one in project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        lines += [f"Provides-Extra: {extra}", *(f'Requires-Dist: {one}; extra == "{extra}"' for one in requirements)]
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
