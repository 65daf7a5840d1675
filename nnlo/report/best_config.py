"""Parameters that a search has found, as a file of options for ``--config``."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from nnlo.errors import ConfigError


def to_config(
    params: Mapping[str, Any],
    tuned: Collection[str] = (),
    options: Mapping[str, Any] | None = None,
    note: str = "",
) -> str:
    """A YAML text with ``options``, then the parameters.

    params: by name: int, float, str, bool or None. tuned: those of them that are options of the
    training, by the names of the options; the others are arguments of get_model and stand in
    ``param``, behind those that ``options`` has there. note: comment lines at the top.
    Read back by ``--config`` each has its value and type. Raises ConfigError for a text that
    would be read as a number, which the command line cannot tell apart.
    """
    import yaml

    chosen = dict(options or {})
    own = {name: value for name, value in params.items() if name not in tuned}
    fixed = [word for word in chosen.pop("param", ()) if word.partition("=")[0] not in own]
    chosen |= {name: value for name, value in params.items() if name in tuned}
    words = [*fixed, *(f"{name}={_word(name, value)}" for name, value in own.items())]
    if words:
        chosen["param"] = words
    comment = "".join(f"# {line}\n" for line in note.splitlines())
    plain = {key: list(one) if isinstance(one, tuple) else one for key, one in chosen.items()}
    return comment + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=math.inf)


def _word(name: str, value: Any) -> str:
    """``value`` as the text behind ``NAME=`` of --param, where YAML's rules hold."""
    import yaml

    if not isinstance(value, str):
        return repr(value) if isinstance(value, float) else _first_line(yaml.safe_dump(value))
    try:
        float(value)
    except ValueError:
        dumped = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf)
        return _first_line(dumped)
    raise ConfigError(
        f"a text in --param must not read as a number, got {value!r} for {name}; "
        "make the categories numbers, or give them another name"
    )


def _first_line(text: str) -> str:
    """Without the line that YAML ends a document of one scalar by."""
    return text.split("\n", 1)[0]
