"""Chat templates with the variables of a request, such as enable_thinking."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping

from pydantic import JsonValue

from thumbs.clients.bases import Base
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import ConfigError, ModelError
from thumbs.models.trunk import open_tokenizer
from thumbs.service.openai_errors import RefusedError

_KEPT = 16


class Templates:
    """Opens a model's tokenizer anew for other variables of its template, and keeps those that were used last."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[str, str], Tokenizer] = OrderedDict()

    def tokenizer(self, base: Base, variables: Mapping[str, JsonValue]) -> Tokenizer:
        """The base's tokenizer; raises RefusedError for a variable that its template never reads."""
        if not variables:
            return base.tokenizer
        key = base.name, json.dumps(variables, sort_keys=True)
        found = self._opened.get(key)
        if found is None:
            template = base.config.template
            template = template.model_copy(update={"variables": {**template.variables, **variables}})
            try:
                found = open_tokenizer(base.config.model_copy(update={"template": template}))
            except (ConfigError, ModelError) as error:
                raise RefusedError(str(error), "chat_template_kwargs", "unsupported_value") from None
        self._opened[key] = found
        while len(self._opened) > _KEPT:
            self._opened.pop(next(iter(self._opened)), None)
        return found
