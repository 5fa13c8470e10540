"""The cases of the engine contract."""

from pathlib import Path

import pytest

from contract.engine_cases import ENGINES, KINDS, Case
from thumbs.config.model import ModelConfig

# Another engine than the local one behind the same wire has nothing of its own for each kind of model.
CASES = [(engine, kind) for engine in ENGINES for kind in KINDS if engine != "recorded" or kind == "adapters"]


@pytest.fixture(params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest, tiny_llama: Path, tmp_path: Path) -> Case:
    """A fresh engine and the settings of one kind of model."""
    engine, kind = request.param
    model = ModelConfig(name=str(tiny_llama), lora=KINDS[kind], dtype="float32")
    return Case(ENGINES[engine](), ENGINES[engine], model, tmp_path)
