"""What `thumbs doctor` finds, against what this process sees and against machines that are made up."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import pytest
import torch
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.models import kernels
from thumbs.pipeline import doctor

REQUIRES = [
    "numpy>=1.26",
    'gguf>=0.17; extra == "gguf"',
    "no-such-library>=1; extra == 'gguf'",
    'matplotlib>=3.9; extra == "report"',
    'thumbs[gguf,report]; extra == "demo"',
    'vaderSentiment>=3.3; extra == "demo"',
    'psycopg[binary]>=3.2; extra == "postgres"',
    'pytest; extra == "dev"',
]


def finding(what: str) -> doctor.Examined:
    (found,) = [line for line in doctor.examine() if line.what == what]
    return found


def test_it_names_this_machine():
    assert platform.python_version() in finding("thumbs").text
    assert torch.__version__ in finding("thumbs").text
    assert f"{os.cpu_count()} cores" in finding("processor").text


@pytest.mark.parametrize(("products", "name"), [(True, "bfloat16"), (False, "float32")])
def test_the_number_format_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch, products: bool, name: str):
    monkeypatch.setattr(doctor, "multiplies_bfloat16", lambda: products)
    assert finding("number format").text.startswith(name)


def test_kernels_that_are_not_there_are_explained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THUMBS_KERNELS", "0")
    assert finding("compiled kernels").advice == "unset THUMBS_KERNELS"
    monkeypatch.delenv("THUMBS_KERNELS")
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "install a C++ compiler" in finding("compiled kernels").advice
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "g++" else None)
    assert "g++ is here" in finding("compiled kernels").advice


def test_a_driver_without_a_torch_for_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "without CUDA" in finding("GPU").text
    assert not finding("GPU").fine


def test_extras_include_what_they_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)
    assert doctor.extras() == {
        "gguf": {"gguf", "no-such-library"},
        "report": {"matplotlib"},
        "demo": {"gguf", "no-such-library", "matplotlib", "vaderSentiment"},
        "postgres": {"psycopg"},
    }


def test_an_extra_that_lacks_something_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)
    assert finding("extra demo") == doctor.Examined(
        "extra demo", "lacks no-such-library", False, "pip install 'thumbs[demo]'"
    )
    assert finding("extra report").fine


def test_the_command_prints_every_finding():
    shown = CliRunner().invoke(app, ["doctor"]).output
    assert [line for line in ("processor", "memory", "compiled kernels", "extra serve") if line not in shown] == []
