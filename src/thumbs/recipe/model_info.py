"""What a model's name says: which renderer writes its format, and its family, size and kind."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thumbs.clients.bases import local_models


@dataclass(frozen=True)
class ModelAttributes:
    """A model by its name; a part that the name does not say is empty."""

    organization: str
    version_str: str
    size_str: str
    is_chat: bool
    recommended_renderers: tuple[str, ...]
    is_vl: bool = False
    is_audio_in: bool = False


def get_model_attributes(model_name: str) -> ModelAttributes:
    """What the name says, such as Qwen, 3 and 8B; never an exception."""
    base = model_name.split(":")[0]
    organization, _, name = base.rpartition("/")
    sizes = re.findall(r"(?<![A-Za-z0-9.])\d+(?:\.\d+)?[BMbm](?:-A\d+(?:\.\d+)?[Bb])?(?![A-Za-z0-9])", name)
    version = re.search(r"\d+(?:\.\d+)?(?![\dA-Za-z]|\.\d)", name)
    return ModelAttributes(
        organization=organization,
        version_str=version.group() if version else "",
        size_str=sizes[0] if sizes else "",
        is_chat=not name.lower().endswith("-base") and get_recommended_renderer_name(base) != "role_colon",
        recommended_renderers=tuple(get_recommended_renderer_names(base)),
        is_vl="vl" in name.lower().split("-"),
    )


def get_recommended_renderer_names(model_name: str) -> list[str]:
    """Renderers that fit, best first. An unknown model gets the one that reads its own chat template.

    A name of THUMBS_ALIASES gets those of the model behind it, which has other special tokens than its name says.
    """
    aliased = local_models().get(model_name)
    name = (aliased.name if aliased else model_name).split(":")[0].rpartition("/")[2].lower()
    if name.startswith("qwen3") and "vl" not in name.split("-"):
        return _qwen3(name)
    if name.startswith(("llama-3", "meta-llama-3")):
        return ["llama3"] if "instruct" in name else ["role_colon"]
    return ["chat_template", "role_colon"]


def get_recommended_renderer_name(model_name: str) -> str:
    """The renderer that fits best; never an exception."""
    return get_recommended_renderer_names(model_name)[0]


def _qwen3(name: str) -> list[str]:
    if not name.startswith(("qwen3-", "qwen3.5-", "qwen3.6-")):
        return ["chat_template", "role_colon"]  # later ones have formats of their own
    if name.endswith("-base"):
        return ["role_colon"]
    if not name.startswith("qwen3-"):
        return ["qwen3_5", "qwen3_5_disable_thinking"]
    return ["qwen3_instruct"] if "instruct" in name else ["qwen3", "qwen3_disable_thinking"]
