# SPDX-License-Identifier: GPL-2.0-or-later
"""The page: its parts (`ftvm/report/page`) and the data of a recording put into one file that asks for nothing else.

What a guest has said is in it, so nothing of it may ever run: the data stand in a block that is no script, every `<`
in them escaped; the script puts them into the page as text only; and the page's own policy allows exactly its one
script and one style, by their digests, and no request to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from typing import Any, Final

from ftvm.report.collect import Collected

SCRIPTS: Final = ("model.js", "chart.js", "table.js", "main.js")
LINE_SEPARATORS: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(found: Collected, facts: dict[str, Any]) -> str:
    """The whole page."""
    script = '"use strict";\n' + "\n".join(map(_part, SCRIPTS))
    style = _part("style.css")
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; base-uri 'none'"
    filled = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(f"{facts['name']} - ftvm recording"),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _escaped(json.dumps(data(found, facts), separators=(",", ":"))),
    }
    first, *rest = _part("page.html").split("@")
    out = [first]
    for piece in rest:  # not by replacement: what was put in is never looked at again
        out.append(filled.get(piece, piece))
    return "".join(out)


def data(found: Collected, facts: dict[str, Any]) -> dict[str, Any]:
    """What the script reads."""
    order = {"in": 0, "out": 1, "cpu": 2}
    kinds = sorted(found.kinds.items(), key=lambda item: (order.get(item[1].direction, 3), item[0]))
    number = {name: index for index, (name, _) in enumerate(kinds)}
    series = found.bins.series()
    return {
        "facts": facts,
        "kinds": [
            {"name": name, "direction": kind.direction, "count": kind.count, "bytes": kind.bytes,
             "stride": kind.rows.stride}
            for name, kind in kinds
        ],
        "bins": {
            "start": found.bins.start,
            "width": found.bins.width,
            "count": max((len(values) for values in series.values()), default=1),
            "series": found.series(),
        },
        "rows": [[time, position, number[kind], size, words] for time, position, kind, size, words in found.rows()],
    }  # fmt: skip


def _part(name: str) -> str:
    return resources.files("ftvm.report").joinpath("page", name).read_text()


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _escaped(text: str) -> str:
    """JSON that cannot end the block it stands in."""
    for character, escape in LINE_SEPARATORS.items():
        text = text.replace(character, escape)
    return text
