"""A file of options as words of a command line, and words as values."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nnlo.errors import ConfigError

_DEPTH = 3
"""Of a value: a mapping of lists of lists."""
_INT_BITS = 1000  # more are no float, or have no text in decimals


def file_words(path: str, known: Collection[str], skipped: Collection[str] = ()) -> list[str]:
    """The options in a YAML (or JSON) file, as words of a command line.

    known: names of options, with underscores. Raises ConfigError for others. skipped: those
    whose values stand elsewhere.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            content = _content(stream.read())
    except Exception as error:  # PyYAML lets out what constructors of Python raise
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


def _content(text: str) -> Any:
    """A JSON text by JSON's rules: YAML reads its escapes of rare characters as two halves."""
    import yaml

    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def _words(name: str, value: Any) -> list[str]:
    if not _is_plain(value, _DEPTH):
        raise ConfigError(
            f"values in --config must be numbers, texts and short lists of them, got a nested "
            f"one for {name}; write one list or mapping"
        )
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
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether ``value`` nests no deeper: aliases in YAML can make it endless."""
    if isinstance(value, Mapping):
        parts = (*value, *value.values())
        return depth > 0 and all(_is_plain(one, depth - 1) for one in parts)
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)  # halves of one
    if isinstance(value, list | tuple | set):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    return not isinstance(value, int) or value.bit_length() <= _INT_BITS


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
            if not _is_plain(value, _DEPTH):
                raise ValueError("a nested value")  # noqa: TRY301
        except Exception:  # PyYAML lets out what constructors of Python raise
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
