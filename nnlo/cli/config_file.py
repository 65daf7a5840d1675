"""A file of options as words of a command line, and words as values."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nnlo.errors import ConfigError


def file_words(path: str, known: Collection[str], skipped: Collection[str] = ()) -> list[str]:
    """The options in a YAML (or JSON) file, as words of a command line.

    known: names of options, with underscores. Raises ConfigError for others. skipped: those
    whose values stand elsewhere.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.safe_load(stream)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config must be a readable YAML file, got {path} ({error})") from None
    if isinstance(content, Mapping) and isinstance(content.get("options"), Mapping):
        content = content["options"]  # the config.json of a run
    if not isinstance(content, Mapping):
        raise ConfigError(f"--config must hold options and their values, got no mapping in {path}")
    words: list[str] = []
    for key, value in content.items():
        name = str(key).lstrip("-").replace("-", "_")
        if name not in known:
            raise ConfigError(
                f"--config must hold options that exist, got {key} in {path}; see --help"
            )
        if name in skipped:
            continue
        words += _words(name.replace("_", "-"), value)
    return words


def _words(name: str, value: Any) -> list[str]:
    if value is None or value is False or value in ([], {}):
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, Mapping):
        return [f"--{name}", *(f"{k}={_word(v)}" for k, v in value.items())]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def pairs(name: str, words: Sequence[str]) -> dict[str, Any]:
    """``["a=1", "b=x"]`` as ``{"a": 1, "b": "x"}``; values are read as YAML scalars."""
    import yaml

    result = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"{name} must read NAME=VALUE, got {word!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{name} must read NAME=VALUE, got {word!r}") from None
        result[key] = _number(value)
    return result


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for a text; people do not."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
