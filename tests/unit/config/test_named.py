"""Callables by name: known ones, registered ones, and any other by its module."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from thumbs.config.named import Registry
from thumbs.errors import ConfigError


def double(x: int) -> int:
    return 2 * x


def test_a_name_is_known_registered_or_of_a_module():
    registry = Registry[Callable[..., Any]]("number", {"absolute": abs, "root": "math:sqrt"})
    registry.register("double", double)
    registry.register("double", double)  # the same again is not a conflict
    given = [registry[name](9) for name in ("absolute", "root", "double", "math:factorial")]
    assert given == [9, 3.0, 18, 362880]
    assert registry.names == ("absolute", "double", "root")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("triple", "number: got 'triple'; allowed are absolute, and module:name"),
        ("", "number: got ''"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("math:no_such_function", "'math' has no 'no_such_function'"),
        ("math:pi", "math:pi is float"),
    ],
)
def test_a_name_that_nothing_has_is_refused(name: str, complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        Registry[Callable[..., Any]]("number", {"absolute": abs})[name]


def test_another_process_is_told_where_to_find_what_was_registered():
    registry = Registry[Callable[..., Any]]("number", {"root": "math:sqrt"})
    registry.register("double", double)
    other = Registry[Callable[..., Any]]("number", {})
    for name in ("root", "double", "math:factorial"):
        other.register(name, registry.reference(name))
        assert other[name](4) == registry[name](4)


@pytest.mark.parametrize("value", [lambda x: x, str.upper, partial(double, 3)], ids=["lambda", "method", "partial"])
def test_what_no_other_process_can_import_has_no_reference(value: Callable[..., Any]):
    registry = Registry[Callable[..., Any]]("number", {})
    registry.register("own", value)
    with pytest.raises(ConfigError, match="'own' is known to this process alone"):
        registry.reference("own")


def test_a_name_is_one_thing():
    registry = Registry[Callable[..., Any]]("number", {"absolute": abs})
    with pytest.raises(ConfigError, match="number 'absolute' is there already"):
        registry.register("absolute", double)
    registry.register("double", double)
    registry.forget("double")
    assert "double" not in registry
