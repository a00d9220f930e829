"""The report as one HTML file that needs no network: what `report` and `convert --html` write.

Jinja makes what can be read without scripts: the summary, the proof, the numbers, the bindings. The scripts in `js` make what one moves
in: the picture, the table of nodes, the story of a node. All of it comes from `report.json`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch2trt_onnx.files import replace_atomically
from torch2trt_onnx.page import payload, sections, summary, words
from torch2trt_onnx.page.curve import curve
from torch2trt_onnx.report import Report

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent
LIBRARIES = ("d3-hierarchy", "dagre")
FILTERS = ("amount", "counted", "error", "share", "shape", "size")
SCRIPTS = ("dom", "data", "modules", "tooltip", "treemap", "tree", "picture", "filters", "nodes", "graph", "neighbours", "story",
           "changes", "main")  # fmt: skip
"""The files of the page's own script, each of which uses what stands before it."""


def write(path: Path, text: str) -> None:
    """Write a page, or its Markdown, whole or not at all.

    Raises:
        OSError: of the file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path.parent) as fresh:
        (fresh / path.name).write_text(text, encoding="utf-8")


def render(report: Report) -> str:
    """The page: one file, which asks for no other."""
    early, script = text("js/theme.js"), _script()
    return template(FOLDER / "page.html.j2").render(
        report=report,
        shares=summary.shares(report),
        statements=list(summary.statements(report)),
        figures=list(summary.figures(report)),
        multiplies=summary.multiplies(report),
        matrix=sections.matrix(report),
        passes=sections.passes(report),
        bindings=list(sections.bindings(report)),
        asked=list(sections.asked(report)),
        curve=curve(report.trade) if report.trade is not None and report.trade.trials else None,
        version=importlib.metadata.version("torch2trt_onnx"),
        style=text("page.css"),
        early=early,
        script=script,
        hashes=[digest(early), digest(script)],
        data=payload.encode(report),
    )


def template(path: Path) -> jinja2.Template:
    """A template, which escapes what it is given, knows the filters of `words`, and refuses names that it is not given."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {name: getattr(words, name) for name in FILTERS}
    return environment.get_template(path.name)


def _script() -> str:
    """The libraries, each with its licence, and the page's own files as one closed scope."""
    libraries = [f"/*!\n{text(f'vendor/{name}.LICENSE')}*/\n{text(f'vendor/{name}.min.js')}" for name in LIBRARIES]
    own = "\n".join(text(f"js/{name}.js") for name in SCRIPTS)
    whole = "\n".join([*libraries, f'(() => {{\n"use strict";\n{own}}})();\n'])
    return re.sub(r"^//# sourceMappingURL=.*\n?", "", whole, flags=re.MULTILINE)  # a map that no one has


def digest(script: str) -> str:
    """What the page's policy allows to run: scripts with this digest, and so nothing that a name smuggles in."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def text(name: str) -> str:
    """A file of the page."""
    return (FOLDER / name).read_text(encoding="utf-8")
