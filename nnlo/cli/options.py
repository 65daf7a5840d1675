"""Command line and ``--config`` file as one frozen dataclass, and back.

Each field says once what its option is: type, default, group and help. Names may be spelled
with ``-`` or ``_``, and unambiguous abbreviations work.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import Field, field, fields
from typing import Any, NoReturn

import nnlo
from nnlo.cli.config_file import file_words


def option(group: str, default: Any, text: str, kind: Any = str, **extra: Any) -> Any:
    """A field that is an option. kind: str, int, float, bool, or list for NAME=VALUE pairs.

    is_place=True in ``extra``: a word without a name, which a file cannot give.
    """
    return field(default=default, metadata={"group": group, "text": text, "kind": kind, **extra})


class _Parser(argparse.ArgumentParser):
    """Speaks on one rank only."""

    def error(self, message: str) -> NoReturn:
        speak_first(f"{self.prog}: error: {message} (see --help)")
        sys.exit(2)

    def print_help(self, file: Any = None) -> None:
        if is_first_process():
            super().print_help(file)


def is_first_process() -> bool:
    """Whether this is rank 0 as far as the launcher tells, before MPI is there."""
    names = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def speak_first(message: str) -> None:
    """Write ``message`` from one rank only, before MPI is there to agree on it.

    The other ranks let it speak: a launcher ends all ranks once one has ended with an error.
    """
    if is_first_process():
        print(message, file=sys.stderr, flush=True)
    else:
        time.sleep(5.0)


def make_parser(prog: str, options: type[Any], description: str) -> argparse.ArgumentParser:
    """A parser with one option a field of ``options``, in their groups."""
    parser = _Parser(prog, description=description)
    parser.add_argument("--version", action="version", version=f"NNLO {nnlo.__version__}")
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; the line wins")
    groups: dict[str, Any] = {}
    for entry in fields(options):
        name = entry.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add(groups[name], entry)
    return parser


def _add(group: Any, entry: Field[Any]) -> None:
    meta = entry.metadata
    name = "--" + entry.name.replace("_", "-")
    text = meta["text"].replace("%", "%%")
    if meta.get("is_place"):
        group.add_argument(
            entry.name, nargs="?", default=entry.default, help=text, metavar=meta["metavar"]
        )
        return
    if meta["kind"] is bool:  # --no-NAME, for what a file may have switched on
        group.add_argument(name, action=argparse.BooleanOptionalAction, default=False, help=text)
        return
    if entry.default not in (None, "", ()) and "(default" not in text:
        text += f" (default: {entry.default})"
    extra = {key: meta[key] for key in ("metavar", "choices") if key in meta}
    if meta["kind"] is list:
        group.add_argument(name, nargs="+", action="extend", default=[], help=text, **extra)
        return
    if "choices" not in extra:
        extra.setdefault("metavar", {int: "N", float: "X"}.get(meta["kind"], "NAME"))
    group.add_argument(name, type=meta["kind"], default=entry.default, help=text, **extra)


def parse(prog: str, options: type[Any], description: str, argv: Sequence[str] | None) -> Any:
    """An instance of ``options`` from the command line and its ``--config`` file.

    Ends the program with code 2 for a line that cannot be understood. Raises ConfigError for a
    bad file or a combination of options that makes no sense.
    """
    parser = make_parser(prog, options, description)
    line = [_spelled(token) for token in (sys.argv[1:] if argv is None else argv)]
    first = vars(parser.parse_args(line))
    values = first
    if first["config"]:
        known = {one.name: one for one in fields(options) if not one.metadata.get("is_place")}
        given = {name for name, value in first.items() if isinstance(value, list) and value}
        named = {
            one for one in given if known[one].metadata.get("metavar", "").startswith("NAME=")
        }
        words = file_words(first["config"], known, given - named)
        values = vars(parser.parse_args([*words, *line]))
        for name in named:
            values[name] = _merged(values[name], len(first[name]))
    del values["config"]
    return options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _merged(words: Sequence[str], n_last: int) -> list[str]:
    """NAME=VALUE words, of which the last ``n_last`` win over those before with their names."""
    before, last = words[: len(words) - n_last], words[len(words) - n_last :]
    names = {word.partition("=")[0] for word in last}
    return [*(word for word in before if word.partition("=")[0] not in names), *last]


def _spelled(token: str) -> str:
    """``--train_data=x_y`` as ``--train-data=x_y``."""
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value
