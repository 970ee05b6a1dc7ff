"""The scripts of demo and world are no packages: their folders go on the path, as when one of them is run."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "deploy" / folder) for folder in ("demo", "world")]
