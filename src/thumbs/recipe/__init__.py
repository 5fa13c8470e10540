"""The recipes of tinker-cookbook, as published, on the clients of this process.

`thumbs.recipe.NAME` is `tinker_cookbook.NAME`; the shortcuts are those of `mint.recipe`. The cookbook imports `tinker`.
Unless that SDK was imported before, or `TINKER_BASE_URL` or `MINT_BASE_URL` names a server, `tinker` is this process
(tinker_module.py), which needs neither server nor key. Importing this module decides it.

Two names differ from the cookbook's, so that scripts written for MinT run: `recipe_name` has a default in each
`Config`, and `get_recommended_renderer_name` answers for models that the cookbook does not list.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from thumbs.errors import ConfigError, needs
from thumbs.recipe import tinker_module

THEIRS = "tinker_cookbook"
SDKS = {"MINT_BASE_URL": ("mint", "mindlab-toolkit"), "TINKER_BASE_URL": ("tinker", "tinker")}
"""Environment variable that names a server: (module, distribution) of the SDK that calls it."""

SHORTCUTS = {
    "EnvFromMessageEnv": "rl.message_env",
    "Message": "renderers.base",
    "MessageEnv": "rl.message_env",
    "MessageStepResult": "rl.message_env",
    "conversation_to_datum": "supervised.data",
    "datum_from_model_input_weights": "supervised.common",
    "get_recommended_renderer_name": "model_info",
    "get_tokenizer": "tokenizer_utils",
}
"""Names of `mint.recipe` itself: the module that has them."""
__all__ = [*SHORTCUTS]


class CookbookFinder(MetaPathFinder, Loader):
    """Finds `thumbs.recipe.X` where the cookbook has `tinker_cookbook.X`."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """The spec, or None if the name is not below this module or the cookbook has no such module."""
        if not fullname.startswith(f"{__name__}."):
            return None
        _theirs(fullname.rpartition(".")[0])
        spec = importlib.util.find_spec(_their_name(fullname))
        return spec and ModuleSpec(fullname, self, is_package=spec.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> None:
        """None: an ordinary module will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Names of the module are looked up in the cookbook's when they are used."""
        theirs = _theirs(module.__name__)
        module.__dict__["__getattr__"] = partial(look_up, module.__name__)
        module.__dict__["__dir__"] = partial(dir, theirs)
        module.__doc__ = theirs.__doc__


def look_up(module: str, name: str) -> Any:
    """What the cookbook has under a name of one of the modules here."""
    if name.startswith("__") and name != "__all__":  # tools ask for these of every module
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    theirs = _theirs(module)
    if name == "__all__":
        return getattr(theirs, name, [public for public in dir(theirs) if not public.startswith("_")])
    value: Any = getattr(theirs, name, None)
    if isinstance(value, ModuleType) or not hasattr(theirs, name):
        return _submodule(module, name, value)
    if name == "get_recommended_renderer_name":
        return partial(_recommended, value)
    if name == "get_tokenizer":
        return lambda model_name: tinker_module.one_at_a_time(value(model_name))
    return _with_recipe_name(module, value) if name == "Config" else value


def _submodule(module: str, name: str, value: ModuleType | None) -> ModuleType:
    """The module of that name below `module`, or one that it imports from elsewhere."""
    if value is not None and value.__name__ != f"{_their_name(module)}.{name}":
        return value
    try:
        return importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{module}.{name}":
            raise
        raise AttributeError(f"tinker-cookbook has no {_their_name(module)}.{name}") from None


def _with_recipe_name(module: str, config: type) -> type:
    """A settings class whose `recipe_name`, which only labels the run on a hosted service, may be left out."""
    chz = importlib.import_module("chz")  # the cookbook brings it along
    if not chz.is_chz(config) or "recipe_name" not in chz.chz_fields(config):
        return config
    fields = {"__annotations__": {"recipe_name": str}, "recipe_name": "thumbs", "__module__": module}
    named = chz.chz(type("Config", (config,), {**fields, "__doc__": config.__doc__}))
    sys.modules[module].__dict__["Config"] = named
    return named


def _recommended(ask: Callable[[str], str], model_name: str) -> str:
    """The cookbook's answer, or for a model that it does not list ChatML or role names, as the tokenizer has it."""
    try:
        # Of this family the cookbook lists some sizes only; all have one format.
        return ask("Qwen/Qwen3-8B" if re.fullmatch(r"Qwen/Qwen3-[\d.]+B", model_name) else model_name)
    except (KeyError, ValueError):
        tokenizer = _theirs(f"{__name__}.tokenizer_utils").get_tokenizer(model_name)
        return "qwen3_instruct" if "<|im_start|>" in tokenizer.get_vocab() else "role_colon"


def _their_name(module: str) -> str:
    return THEIRS + module.removeprefix(__name__)


def _theirs(module: str) -> ModuleType:
    """The cookbook's module; raises MissingExtra if the cookbook is not installed."""
    with needs("cookbook", "thumbs.recipe"):
        importlib.import_module(THEIRS)
    return importlib.import_module(_their_name(module))


def __getattr__(name: str) -> Any:
    if name in SHORTCUTS:
        return getattr(importlib.import_module(f"{__name__}.{SHORTCUTS[name]}"), name)
    return look_up(__name__, name)


def _choose_clients() -> None:
    """Imports the SDK if a server is named; else this process is `tinker`. An SDK that was imported before stays."""
    if "tinker" in sys.modules:
        return
    named = [variable for variable in SDKS if os.environ.get(variable)]
    for variable in named:
        if importlib.util.find_spec(SDKS[variable][0]) is not None:
            importlib.import_module(SDKS[variable][0])
            return
    if named:
        raise ConfigError(
            f"{named[0]}={os.environ[named[0]]} sends recipes to that server through an SDK, which is not installed: "
            f"pip install {SDKS[named[0]][1]}, or unset {named[0]} to train in this process"
        )
    tinker_module.install()
    if importlib.util.find_spec(THEIRS) is not None:
        tinker_module.register_tokenizers(_theirs(f"{__name__}.tokenizer_utils").register_tokenizer)


_choose_clients()
sys.meta_path.append(CookbookFinder())
