"""Python callables by name, as a config gives them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from thumbs.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def load_callable(name: str) -> Callable[..., Any]:
    """The callable `module:name`; modules are looked for next to the installed ones in the current folder.

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


class Registry(Generic[F]):
    """Callables of one kind that configs name: some that are known, what a program registers, any other `module:name`.

    Another process knows nothing of what this one registered: send it the `reference`, and let it register that.
    """

    def __init__(self, kind: str, known: Mapping[str, F | str]) -> None:
        self.kind, self._known = kind, dict(known)

    @property
    def names(self) -> tuple[str, ...]:
        """All that need no module, sorted."""
        return tuple(sorted(self._known))

    def register(self, name: str, value: F | str) -> None:
        """Gives `value`, or what a `module:name` stands for, a name; raises ConfigError if that is another one's."""
        if self._known.get(name, value) is not value:
            raise ConfigError(f"{self.kind} {name!r} is there already; choose another name")
        self._known[name] = value

    def forget(self, name: str) -> None:
        """Takes back what `register` gave."""
        del self._known[name]

    def reference(self, name: str) -> str:
        """The `module:name` of what goes by that name; raises ConfigError for what another process could not import."""
        value = self._known.get(name, name)
        if isinstance(value, str):
            return value
        found = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"
        if found.startswith("__main__") or "<" in found or "." in found.partition(":")[2] or found.endswith(":"):
            raise ConfigError(f"{self.kind} {name!r} is known to this process alone; define it at the top of a module")
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __getitem__(self, name: str) -> F:
        """What goes by that name; raises ConfigError if nothing does."""
        found = self._known.get(name, name)
        if not isinstance(found, str):
            return found
        if ":" not in found:
            known = ", ".join(self.names) or "nothing else"
            raise ConfigError(f"{self.kind}: got {name!r}; allowed are {known}, and module:name of your own")
        return cast(F, load_callable(found))
