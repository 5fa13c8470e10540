"""Recipes of tinker-cookbook, as published, against a server of ours."""

from __future__ import annotations

import pytest

from service.conformance import COOKBOOK, PAGE, environment_of, outcomes, recipes, served


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_the_recipes_run_against_the_server(tmp_path):
    """Every case passes, and the page says so."""
    environment_of(COOKBOOK)
    with served(tmp_path, COOKBOOK) as url:
        found, printed = outcomes(COOKBOOK, url, tmp_path)
    assert [case for case, passed in found.items() if not passed] == [], printed[-5000:]
    assert len(found) >= 10
    assert recipes(found) in PAGE.read_text(encoding="utf-8")
