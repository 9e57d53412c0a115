"""One tiny model, data set and recipe for all tests of the command line; nothing writes there."""

from __future__ import annotations

import pytest

from tests.cli.runs import make_assets
from zoft.recipe import read_recipe


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the recipe."""
    return str(make_assets(tmp_path_factory.mktemp("assets")))


@pytest.fixture(scope="session")
def base(recipe: str) -> str:
    """Folder of the model that the recipe trains."""
    return str(read_recipe(recipe)["model_name_or_path"])
