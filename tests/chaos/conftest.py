"""The model that the API's own tests have."""

from tests.serve.conftest import model, model_folder

__all__ = ["model", "model_folder"]
