"""`thumbs schema`: the settings of a run for editors."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON schema of a config, for editors that complete keys and mark mistakes.

    Most editors find it by the first line of a YAML file: "# yaml-language-server: $schema=thumbs.schema.json".

    \b
    Example:
      thumbs schema > thumbs.schema.json
    """
    from thumbs.config.schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))
