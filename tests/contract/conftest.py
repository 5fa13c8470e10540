"""The cases of the engine contract."""

from pathlib import Path

import pytest

from contract.engine_cases import ENGINES, KINDS, Case
from thumbs.config.model import ModelConfig

# What is the same engine behind another wire has nothing of its own for each kind of model.
ONCE = ("recorded", "ray")
CASES = [(engine, kind) for engine in ENGINES for kind in KINDS if engine not in ONCE or kind == "adapters"]


@pytest.fixture(params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest, tiny_llama: Path, tmp_path: Path) -> Case:
    """A fresh engine and the settings of one kind of model."""
    engine, kind = request.param
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray is not installed; pip install 'thumbs[cluster]'")
    model = ModelConfig(name=str(tiny_llama), lora=KINDS[kind], dtype="float32")
    return Case(ENGINES[engine](), ENGINES[engine], model, tmp_path)
