"""The pictures of the README: of the report and of the terminal, from a conversion that is made for them.

    tools/test --all    # sets up .venv, with MiniLM's weights and a browser
    .venv/bin/python tools/pictures.py [NAME ...]

Writes tools/pictures/*.png. The model is all-MiniLM-L6-v2, fp32 as its authors published it, lowered to fp16 as far as an error of 4e-4
allows. Without names all pictures are made.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import browser
import pretrained
import torch
from PIL import Image
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from torch2trt_onnx import ConversionWarning, convert

PLACE = Path(__file__).parent / "pictures"
NODE = "/bert/encoder/layer.2/attention/self/query/MatMul"
COLUMNS = 118
COMMANDS = {
    "inspect": [
        "inspect",
        "out/model.onnx",
        "--show",
        "layers",
        "--only",
        "module=bert.encoder.layer.2.attention*",
        "--no-pager",
    ],
    "explain": ["explain", "out", NODE, "--no-pager"],
}
THEME = TerminalTheme(
    (17, 21, 28),
    (213, 219, 227),
    [
        (60, 68, 80),
        (240, 113, 120),
        (126, 200, 120),
        (230, 190, 100),
        (110, 160, 250),
        (200, 140, 240),
        (90, 200, 215),
        (213, 219, 227),
    ],
)
"""Of the terminal: background, text, and the colours from black to white."""
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 14px 18px; background: #11151c; color: #d5dbe3; width: max-content; }}
pre {{ margin: 0; font: 13px/1.4 monospace; }}
{stylesheet}
</style><pre>{code}</pre>"""


class MiniLM(torch.nn.Module):
    """The encoder as it is published; its last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = pretrained.minilm()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states `[N, S, 384]`."""
        found: torch.Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return found


def converted(folder: Path) -> Path:
    """The conversion that is shown, saved, with its page."""
    torch.manual_seed(0)
    inputs = [torch.randint(1000, 2000, (1, 64)), torch.ones(1, 64, dtype=torch.int64)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        conversion = convert(MiniLM().eval(), inputs, {"fp32", "fp16"}, policy="auto", max_error=4e-4)
    saved = conversion.save(folder / "out")
    subprocess.run([sys.executable, "-m", "torch2trt_onnx.cli", "report", saved], check=True, stdout=subprocess.DEVNULL)
    return saved / "report.html"


def report(view: Page) -> None:
    """The summary and the treemap."""
    box = view.locator("#picture").bounding_box()
    assert box is not None
    view.set_viewport_size({"width": view.evaluate("innerWidth"), "height": round(box["y"] + box["height"] + 16)})


def story(view: Page) -> None:
    """A node's story beside the picture."""
    view.goto(f"{view.url}#node={NODE}")
    view.locator(".graph").wait_for()
    view.locator("#picture").scroll_into_view_if_needed()
    view.evaluate("document.querySelector('#picture').scrollIntoView({ behavior: 'instant' })")


VIEWS: dict[str, tuple[int, str, Callable[[Page], None]]] = {
    "report": (1280, "light", report),
    "report-dark": (1280, "dark", report),
    "report-400": (400, "light", report),
    "story": (1280, "light", story),
    "story-dark": (1280, "dark", story),
}
"""Picture -> its width, light or dark, and what is done before it is taken."""


def of_page(chromium: Browser, page: Path, name: str) -> None:
    """A picture of the report."""
    width, theme, prepare = VIEWS[name]
    view = chromium.new_page(
        viewport={"width": width, "height": 860}, color_scheme="dark" if theme == "dark" else "light"
    )
    view.goto(page.as_uri())
    prepare(view)
    _keep(view, name)


def of_terminal(chromium: Browser, folder: Path, name: str) -> None:
    """A picture of what a command prints, in colours, as on a terminal."""
    words = COMMANDS[name]
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "LINES": "200"}
    command = [sys.executable, "-m", "torch2trt_onnx.cli", *words]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ torch2trt-onnx {' '.join(words).removesuffix(' --no-pager')}", style="bold"))
    console.print(Text.from_ansi(done.stdout), soft_wrap=True)
    view = chromium.new_page(viewport={"width": 400, "height": 300})
    view.set_content(console.export_html(theme=THEME, code_format=TERMINAL))
    width, height = view.evaluate("[document.body.offsetWidth, document.body.offsetHeight]")
    view.set_viewport_size({"width": width, "height": height})
    _keep(view, name)


def _keep(view: Page, name: str) -> None:
    path = PLACE / f"{name}.png"
    view.screenshot(path=path)
    view.close()
    # A palette a third of the size, which no eye tells from the picture: by medians of use it would lose the few coloured words.
    few = Image.open(path).convert("RGB").quantize(255, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path} {path.stat().st_size / 1000:.0f} kB", flush=True)


def main(names: list[str]) -> None:
    """Make those pictures, or all."""
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, browser.launched() as chromium:
        folder = Path(name)
        page = converted(folder)
        for wanted in names or [*VIEWS, *COMMANDS]:
            if wanted in VIEWS:
                of_page(chromium, page, wanted)
            else:
                of_terminal(chromium, folder, wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
