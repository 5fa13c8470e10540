"""Which renderer writes a model's format."""

from __future__ import annotations


def get_recommended_renderer_names(model_name: str) -> list[str]:
    """Renderers that fit, best first. An unknown model gets the one that reads its own chat template."""
    name = model_name.rpartition("/")[2].lower()
    if name.startswith("qwen3") and "vl" not in name.split("-"):
        return _qwen3(name)
    if name.startswith(("llama-3", "meta-llama-3")):
        return ["llama3"] if "instruct" in name else ["role_colon"]
    return ["chat_template", "role_colon"]


def get_recommended_renderer_name(model_name: str) -> str:
    """The renderer that fits best; never an exception."""
    return get_recommended_renderer_names(model_name)[0]


def _qwen3(name: str) -> list[str]:
    if not name.startswith("qwen3-"):
        return ["chat_template", "role_colon"]  # Qwen3.5 and later have formats of their own
    if name.endswith("-base"):
        return ["role_colon"]
    return ["qwen3_instruct"] if "instruct" in name else ["qwen3", "qwen3_disable_thinking"]
