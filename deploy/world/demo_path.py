"""Puts deploy/demo on the path, whose lock and pre-training the scripts of this folder share; imported before these."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
