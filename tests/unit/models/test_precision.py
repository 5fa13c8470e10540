"""Which number format "auto" takes, on processors that this one is not."""

import pytest
import torch

from thumbs.config.model import ModelConfig
from thumbs.models.precision import compute_dtype

AMX, AVX512, CUDA = "cpu._is_amx_tile_supported", "cpu._is_avx512_bf16_supported", "cuda.is_available"


@pytest.mark.parametrize(
    ("found", "dtype"),
    [(None, torch.float32), (AMX, torch.bfloat16), (AVX512, torch.bfloat16), (CUDA, torch.bfloat16)],
)
def test_auto_takes_what_the_processor_multiplies(monkeypatch, found: str | None, dtype: torch.dtype):
    for name in (AMX, AVX512, CUDA):
        monkeypatch.setattr(f"torch.{name}", lambda name=name: name == found)
    assert compute_dtype(ModelConfig(name="smollm2-135m")) == dtype
    assert compute_dtype(ModelConfig(name="byte-tiny")) == torch.float32
    assert compute_dtype(ModelConfig(name="smollm2-135m", dtype="float32")) == torch.float32
