"""The cases of the engine contract."""

from pathlib import Path

import pytest
from transformers import GemmaConfig

from contract.engine_cases import ENGINES, KINDS, Case
from thumbs.config.model import ModelConfig
from tiny_models import SHAPE, save_random

OURS, GEMMA = list(KINDS)[:3], list(KINDS)[3:]
KINDS_OF = {
    # What is the same engine behind another wire has nothing of its own for each kind of model.
    "local": OURS,
    "recorded": ["adapters"],
    "crew": [*OURS, *GEMMA],
    "ray": ["adapters", "gemma, full"],
    "sharded crew": [*OURS, "gemma, full"],
    "sharded ray": ["full"],
}
CASES = [(engine, kind) for engine in ENGINES for kind in KINDS_OF[engine]]


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Gemma, which transformers computes."""
    # Tied weights would lie in a checkpoint twice, and tests compare what lies there with what is trained.
    config = GemmaConfig(**SHAPE, head_dim=16, tie_word_embeddings=False)
    return save_random(config, tmp_path_factory.mktemp("tiny-gemma"))


@pytest.fixture(params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest, tiny_llama: Path, tiny_gemma: Path, tmp_path: Path) -> Case:
    """A fresh engine and the settings of one kind of model."""
    engine, kind = request.param
    if "ray" in engine:
        pytest.importorskip("ray", reason="Ray is not installed; pip install 'thumbs[cluster]'")
    base = tiny_gemma if kind in GEMMA else tiny_llama
    model = ModelConfig(name=str(base), lora=KINDS[kind], dtype="float32")
    return Case(ENGINES[engine](), ENGINES[engine], model, tmp_path)
