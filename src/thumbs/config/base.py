"""Frozen, closed configuration: setting one key changes one key, and an unknown key is an error that names the nearest.

A section lies over the default of the field that it stands in, so what it leaves out is as it was without it. `null`
means absent: a value of its own where the field can be null, the default everywhere else.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from thumbs.config.former_names import current_override, rename_settings
from thumbs.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T", bound="Frozen")


class Frozen(BaseModel):
    """Base of every config: immutable, unknown keys and NaN and ±∞ refused, field docstrings are the documentation.

    Plain data for a section (from YAML, the command line or Python) lies over the field's default. A section that is
    given as an object of its class is taken as it is.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )
    former_keys: ClassVar[Mapping[str, str]] = {}
    """Dotted keys of earlier versions, and what they are called now."""

    @model_validator(mode="before")
    @classmethod
    def _lies_over_defaults(cls, given: Any) -> Any:
        return over_defaults(cls, given) if isinstance(given, Mapping) else given


def over_defaults(cls: type[BaseModel], given: Mapping[str, Any], default: BaseModel | None = None) -> dict[str, Any]:
    """`given` over what `default` sets, and in the same way every section in it over the default of its field.

    A null is left out where the field cannot be null. A section of another kind than its default (a field with one
    allowed word, such as `type`, differs) starts from the defaults of its own kind.
    """
    merged = {} if default is None else {name: getattr(default, name) for name in default.model_fields_set}
    for key, value in given.items():
        field = cls.model_fields.get(key)
        if field is None:
            merged[key] = value
            continue
        if value is None and not is_nullable(field):
            continue
        standing = merged.get(key, field.get_default(call_default_factory=True))
        if isinstance(value, Mapping) and isinstance(standing, BaseModel) and not _is_another_kind(standing, value):
            merged[key] = over_defaults(type(standing), value, standing)
        else:
            merged[key] = value
    return merged


def is_nullable(field: FieldInfo) -> bool:
    """Whether null is a value of the field, and not merely its absence."""
    return field.annotation in (Any, None) or type(None) in get_args(field.annotation)


def _is_another_kind(default: BaseModel, given: Mapping[str, Any]) -> bool:
    for name, field in type(default).model_fields.items():
        words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if len(words) == 1 and given.get(name, words[0]) != words[0]:
            return True
    return False


def load_config(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """Config of class `cls` from a YAML file, with dotted `key=value` overrides applied on top.

    Raises ConfigError that names the file, the key as the user wrote it, and the nearest known key.
    """
    path = Path(path)
    raw = read_settings_file(path)
    given = list(overrides)
    current = [current_override(override, cls.former_keys) for override in given]
    raw = _copied(raw)
    renamed = _rename(cls, raw, str(path))
    for old, new in zip(given, current, strict=True):
        if old != new:
            renamed.append(f"{old.partition('=')[0].strip()} → {new.partition('=')[0]}")
    _say_renamed(str(path), renamed)
    return build_config(cls, apply_overrides(raw, current), source=str(path))


def read_settings_file(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, or a JSON one, as plain data; raises ConfigError, which names it, for any other."""
    is_json = path.suffix.lower() == ".json"  # which may be indented by tabs
    try:
        text = path.read_text(encoding="utf-8-sig")
        raw = json.loads(text, object_pairs_hook=_once) if is_json else yaml.load(text, _Loader) or {}  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; `thumbs run --help` shows an example") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a YAML file: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid {'JSON' if is_json else 'YAML'}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected settings as `key: value`, got {type(raw).__name__}")
    return raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A section of JSON, in which as in YAML a key stands once."""
    section = dict(pairs)
    if len(section) < len(pairs):
        raise ValueError("a key stands twice in one section; leave one of them out")
    return section


def build_config(cls: type[T], raw: Mapping[str, Any], source: str = "config") -> T:
    """Config of class `cls` from plain data; raises ConfigError in the user's words."""
    settings = _copied(raw)
    _say_renamed(source, _rename(cls, settings, source))
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        explained = (f"{source}: {_explain(cls, item, settings)}" for item in error.errors())
        raise ConfigError("\n".join(dict.fromkeys(explained))) from None


def _rename(cls: type[Frozen], raw: dict[str, Any], source: str) -> list[str]:
    try:
        return rename_settings(raw, cls.former_keys)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _say_renamed(source: str, renamed: list[str]) -> None:
    if renamed:
        log.warning("%s has names of an earlier version, which are understood: %s", source, ", ".join(renamed))


def apply_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each `a.b.c=value` set; values are read as YAML (so `1e-5`, `true`, `[a, b]` work)."""
    result = _copied(raw)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {override!r}: expected key=value, for example ppo.kl.coef=0.05")
        node = result
        *parents, leaf = key.strip().split(".")
        for parent in parents:
            if node.get(parent) is None:  # null is an absent section
                node[parent] = {}
            if isinstance(node[parent], str | list):  # as `data: file.jsonl`, which is short for its path
                node[parent] = {"path": node[parent]}
            node = node[parent]
            if not isinstance(node, dict):
                raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
        node[leaf] = _read_value(value, override)
    return result


def _copied(value: Any) -> Any:
    """A copy in which nothing is shared: what YAML's `*name` repeats is changed in one place at a time."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once in a section; the plain loader takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key!r} stands twice in one section; leave one of them out")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_value(text: str, override: str) -> Any:
    """YAML value, except that `1e-5` is a number (YAML 1.1 reads it as a string)."""
    try:
        value = yaml.load(text, _Loader) if text.strip() else None  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(cls: type[BaseModel], item: Mapping[str, Any], raw: Mapping[str, Any]) -> str:
    path = _written(item["loc"], raw) if item["loc"] else []  # a fault of the whole has no place
    where = ".".join(path)
    if item["type"] == "value_error":  # raised by a config class, in the user's words
        return f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"])
    if item["type"] == "missing":
        return f"{where}: this setting is required; give it"
    if item["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{where}: expected a section of settings (key: value), got {item.get('input')!r}"
    if item["type"] != "extra_forbidden":
        return f"{where}: {item['msg']} (got {item.get('input')!r})"
    known = known_keys(cls, path[:-1])
    close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {where!r}; {hint}"


def _written(loc: Iterable[str | int], raw: Any) -> list[str]:
    """The place of an error without pydantic's names for the branches of a union, which the user never wrote: they
    are in round brackets, as `Tag("(one)")`, or stand at no key of what was given.
    """
    path: list[str] = []
    here: Any = raw
    *parents, last = loc or ("",)
    for part in parents:
        if isinstance(here, list | tuple):
            here = dict(enumerate(here))
        if isinstance(here, Mapping) and part in here:
            path.append(str(part))
            here = here[part]
    return path if isinstance(last, str) and last.startswith("(") else [*path, str(last)]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The config classes in a type, outermost first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def known_keys(cls: type[BaseModel], parents: list[str]) -> list[str]:
    """Keys of the section that stands under `parents` in a config of class `cls`."""
    current: Any = cls
    for parent in parents:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        if parent.isdigit():  # an item of the list that the key before it holds
            continue
        annotation: Any = current.model_fields[parent].annotation if parent in current.model_fields else None
        current = next(_models(annotation), None)
    return list(current.model_fields) if isinstance(current, type) else []
