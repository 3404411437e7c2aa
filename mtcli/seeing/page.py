"""One HTML file that shows traces or a report: everything inline, nothing from a network.

``page/`` has its style sheet and its modules in JavaScript. This file only packs them; what is drawn is decided there,
from the data alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

# In the order in which they need each other.
MODULES = "base table heatmap attention tokens tree charts report".split()

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{script_hash}'; \
style-src '{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{refresh}<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main id="page"><noscript>This page draws its pictures with JavaScript.</noscript></main>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def page(title: str, data: dict[str, Any], refresh: int | None = None) -> str:
    """An HTML document that draws ``data``: ``{"traces": [...]}`` or ``{"report": {...}}``.

    A browser refuses whatever is not in the file: only this style sheet and this script have the hashes that the page's
    own policy allows. Text in ``data`` stays text: it is JSON without a ``<``, and the script makes text nodes of it.
    Numbers that are not finite become null. With ``refresh``, the page is loaded again after as many seconds.
    """
    folder = resources.files(__package__).joinpath("page")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    modules = [folder.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in MODULES]
    # All modules become one: what they import from each other is there already.
    script = re.sub(r"^(import .*\n|export )", "", "\n".join(modules), flags=re.MULTILINE)
    finite = json.loads(json.dumps(data), parse_constant=lambda name: None)
    packed = json.dumps(finite, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return PAGE.format(
        title=html.escape(title),
        refresh=f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh else "",
        style=style,
        style_hash=_hash(style),
        data=packed.replace("<", "\\u003c"),
        script=script,
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """The name of an inline text in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
