# SPDX-License-Identifier: GPL-2.0-or-later
"""`ConfigError`, and the words in which a wrong machine file is told.

pydantic reports a location and an error type; this file turns both into one line per mistake, in the file's own terms:
`machine.memory`, `disk[0].mode`, `service.block.listen[1]`. A misspelt key gets the nearest right one.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a table",
    "dict_type": "a table",
}

Fields = Mapping[tuple[str, ...], Sequence[str]]


class ConfigError(Exception):
    """A machine file that cannot be used; the message names the file, the field and what to write instead."""


def describe(error: ValidationError, fields: Fields) -> list[str]:
    """One line per mistake; `fields` lists the names of each table, by its path without list indices."""
    return [f"{where(detail['loc'])}{_words(detail, fields)}" for detail in error.errors(include_url=False)]


def where(location: Sequence[int | str]) -> str:
    """`("disk", 0, "size")` as `disk[0].size: `; nothing for the whole file."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return f"{text}: " if text else ""


def _words(detail: Any, fields: Fields) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return _unknown(detail["loc"], fields)
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"{show(value)} is not one of {context['expected']}".replace("'", '"')
    if kind == "tuple_type" and isinstance(value, dict):
        return f"is a list of tables; write [[{where(detail['loc']).removesuffix(': ')}]]"
    if kind in _TYPES:
        return f"{show(value)} is not {_TYPES[kind]}"
    limit = {"greater_than_equal": ("less", "ge"), "less_than_equal": ("more", "le")}.get(kind)
    if limit is not None:
        return f"{show(value)} is {limit[0]} than {context[limit[1]]}"
    return f"{show(value)}: {detail['msg']}"


def _unknown(location: Sequence[int | str], fields: Fields) -> str:
    path = tuple(part for part in location[:-1] if isinstance(part, str))
    known = list(fields.get(path, ()))
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else f"; known here: {', '.join(known)}" if known else ""
    return f"no such name{hint}"


def show(value: object) -> str:
    """A value as it stands in TOML, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
