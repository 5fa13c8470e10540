"""Python callables by name, as a config gives them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thumbs.errors import ConfigError


def load_callable(name: str) -> Callable[..., Any]:
    """The callable `module:name`; modules are looked for beside the installed ones in the current folder.

    Importing runs the module, so name only what you would run. Raises ConfigError if there is none.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"{name!r} names no Python function; write module:name, for example my_rewards:brevity")
    if module.endswith(".py") or "/" in module:
        right = module.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise ConfigError(f"{name!r} names a file; write {right}:{attribute}, and run in the folder where it is found")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"{name}: there is no module {error.name!r} in {here} or among the installed ones") from None
    except AttributeError:
        raise ConfigError(f"{name}: module {module!r} has no {attribute!r}") from None
    if not callable(found):
        raise ConfigError(f"{name} is {type(found).__name__}, not something to call")
    return found
