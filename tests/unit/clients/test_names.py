"""What is found under `thumbs` after the change of one import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import thumbs


def test_types_are_the_clients_types():
    """In a process that has imported nothing else: submodules are attributes only once they were imported."""
    code = "import thumbs as mint; D = mint.types.Datum; print(D.__module__, D is mint.Datum, mint.recipe.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["thumbs.clients.types.training", "True", "thumbs.recipe"]


@pytest.mark.parametrize("name", thumbs.__all__)
def test_every_name_is_there(name: str):
    assert getattr(thumbs, name).__name__.removeprefix("thumbs.") == name


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'SamplingClinet'"):
        thumbs.SamplingClinet  # noqa: B018
