"""The JSON schema of a run's settings, as editors read it."""

from __future__ import annotations

from typing import Any

from thumbs.config.pipeline import PipelineConfig


def config_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of what `load_config` accepts: every key with its meaning, default and bounds.

    It differs from the classes in two points, as the reader of configs does: null stands for any absent setting, and
    some sections have a short form: a path, or a list of paths, for data, and a word for a filter, a gold or a tracker.
    """
    found = PipelineConfig.model_json_schema()
    for definition in [found, *found["$defs"].values()]:
        properties = definition.get("properties", {})
        definition["properties"] = {key: _or_null(schema) for key, schema in properties.items()}
    for name in ("DataConfig", "DataSource", "FilterConfig", "GoldConfig", "TrackerConfig"):
        found["$defs"][name] = _or_word(found["$defs"][name], several=name == "DataConfig")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "Settings of a thumbs run"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    described = {key: schema[key] for key in ("description", "default", "title") if key in schema}
    return {**described, "anyOf": [{key: schema[key] for key in schema if key not in described}, {"type": "null"}]}


def _or_word(schema: dict[str, Any], *, several: bool) -> dict[str, Any]:
    paths = [{"type": "array", "items": {"$ref": "#/$defs/DataSource"}, "minItems": 1}] if several else []
    return {"description": schema.get("description", ""), "anyOf": [schema, {"type": "string", "minLength": 1}, *paths]}
