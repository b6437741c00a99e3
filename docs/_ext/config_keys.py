"""The directive ``{config-keys}``: every key that this package adds to a Detectron2 config.

Names and defaults come from :func:`hrnet_d2.add_hrnet_config` itself, descriptions and headings
from the comments above the names in ``hrnet_d2/config.py``::

    # ---- Heading
    # What the key does.
    "MODEL.SOME.KEY": default,
"""

import inspect
import io
import re
import tokenize
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode, get_cfg
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from hrnet_d2 import add_hrnet_config
from hrnet_d2 import config as config_module

# With dots, or, for the keys at the top, with underscores.
_NAME = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)+|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_HEADING = "----"


@dataclass(frozen=True)
class Entry:
    """A key of the source: its name, the heading above it ("" if none) and its description."""

    name: str
    heading: str
    text: str


def added_keys() -> dict[str, Any]:
    """Full name to default of every key that Detectron2's own config does not have."""
    ours = get_cfg()
    add_hrnet_config(ours)
    stock, own = _flatten(get_cfg()), _flatten(ours)
    return {name: value for name, value in own.items() if name not in stock}


def entries(source: str) -> list[Entry]:
    """The keys in the source of ``hrnet_d2/config.py``, in its order."""
    found: list[Entry] = []
    heading, comment = "", []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = token.string.strip("\"'")
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            line = token.string.removeprefix("#").strip()
            if line.startswith(_HEADING):
                heading, comment = line.removeprefix(_HEADING).strip(), []
            else:
                comment = [*comment, line] if line else []
        elif token.type == tokenize.STRING and _NAME.fullmatch(name):
            found.append(Entry(name, heading, " ".join(comment)))
            comment = []
        elif token.type == tokenize.NAME:
            comment = []
    return found


def _flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class ConfigKeys(SphinxDirective):
    """A definition list of the keys under each heading."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(inspect.getfile(config_module))
        defaults = added_keys()
        result: list[nodes.Node] = []
        heading = None
        for entry in entries(inspect.getsource(config_module)):
            if entry.name not in defaults:
                continue
            if entry.heading != heading:
                heading = entry.heading
                result += [nodes.rubric("", heading)] if heading else []
                result.append(nodes.definition_list())
            term = nodes.term("", "", nodes.strong("", entry.name), nodes.Text(" = "))
            term += nodes.literal("", repr(defaults[entry.name]))
            body = nodes.definition("", nodes.paragraph("", entry.text))
            result[-1] += nodes.definition_list_item("", term, body)
        return result


def setup(app) -> dict[str, bool]:
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
