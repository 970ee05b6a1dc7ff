"""The contract of the API as a file, so that a change of it is seen where changes are read.

python -m tests.serve.openapi      writes serve/openapi.json anew
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from dail.serve.app import create_app
from dail.serve.settings import Settings
from tests.conftest import ROOT

FILE = ROOT / "serve" / "openapi.json"


def described() -> str:
    """What the app says of itself, without the release it is of."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)))
        try:
            found = app.openapi()
        finally:
            app.state.service.store.close()
            app.state.readiness.close()
    found["info"]["version"] = ""
    return json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(described(), "utf-8")
