"""How large the page of a large model is, and how soon one can search in it.

    .venv/bin/python tools/bench/page.py [--nodes 10000 ...] [--saved FOLDER ...]

Converts nothing: `tools/large_report.py` makes the reports, or saved folders hold them. "answers" is the time of the page itself
(`performance.now()`) when the table has answered the first search; "typing" the time from a later key to the answer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import browser
from large_report import large_report

from torch2trt_onnx import inspection, page

SEARCH = """async (word) => {
    const start = performance.now(), field = document.querySelector("#search");
    field.value = word;
    field.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
    return [performance.now(), performance.now() - start];
}"""
VISITS = 5


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000, 30_000])
    parser.add_argument("--saved", type=Path, nargs="+", default=[], help="folders of conversions, instead")
    given = parser.parse_args()
    reports = map(inspection.read, given.saved) if given.saved else map(large_report, given.nodes)
    with tempfile.TemporaryDirectory() as folder, browser.launched() as chromium:
        for report in reports:
            path, start = Path(folder) / "report.html", time.perf_counter()
            page.write(path, page.render(report))
            written, answers, typing = time.perf_counter() - start, [], []
            for _ in range(VISITS):
                view = chromium.new_page(viewport={"width": 1280, "height": 900})
                view.goto(path.as_uri())
                answers.append(view.evaluate(SEARCH, "matmul")[0])
                typing.append(view.evaluate(SEARCH, "matmul_7")[1])
                view.close()
            print(
                f"{len(report.nodes):>6} nodes: written in {written:.1f} s, {path.stat().st_size / 1e6:.1f} MB, "
                f"answers {max(answers):.0f} ms after opening, typing {max(typing):.0f} ms (the slowest of {VISITS})",
                flush=True,
            )


if __name__ == "__main__":
    main()
