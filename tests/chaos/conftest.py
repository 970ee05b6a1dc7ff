"""What the API's own tests have: a model, and a database server that may die here."""

from tests.serve.conftest import model, model_folder, postgres

__all__ = ["model", "model_folder", "postgres"]
