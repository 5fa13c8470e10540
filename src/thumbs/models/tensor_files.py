"""Safetensors files that others can read: with the rights of any other file, and whole or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from thumbs.tracking.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file as transformers and PEFT read it. Raises OSError or SafetensorError if it cannot."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(content, temporary, metadata={"format": "pt"})


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes in row-major order, after its data type and shape."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    digest.update(plain.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
