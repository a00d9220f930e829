"""The lines that the modules keep: who imports whom, what an import costs, what a wheel holds."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "torch2trt_onnx"
# Each may import what stands below it; modules of one row do not import each other, but for packages their own files.
ORDER = [
    ["cli"],
    ["commands"],
    ["batch"],
    ["views", "page"],
    ["tables", "facets"],
    ["conversion", "preview", "trade_table", "diagnosis"],
    ["gathering", "shelf"],
    ["result"],
    ["runtime"],
    ["inspection"],
    ["cache", "identity", "explanation"],
    ["manifest", "selection", "tallies"],
    ["report", "interop", "fitness"],
    ["deciding"],
    ["budget"],
    ["search", "trials", "followers", "reasons"],
    ["culprits", "difference"],
    ["compare", "proof", "building", "distances", "stages", "weight_difference"],
    ["ranges"],
    ["pipeline", "planning", "states"],
    ["safety"],
    ["losses"],
    ["placement"],
    ["exporters", "sessions"],
    ["passes"],
    ["plan", "kernels", "work"],
    ["backends"],
    ["graph", "wire", "calibration"],
    ["protos", "parts"],
    ["typecheck", "weights", "options", "files", "hashing", "rules", "borders", "flow"],
    ["inputs", "limits"],
    ["precision", "formats", "signature", "schema"],
    ["errors", "trees"],
]
LEVEL = {name: level for level, row in enumerate(ORDER) for name in row}
FOLDERS = ("commands", "batch", "views", "page", "exporters", "backends", "interop", "runtime", "passes")
FILES = [
    *PACKAGE.glob("*.py"),
    *PACKAGE.glob("commands/*.py"),
    *PACKAGE.glob("batch/*.py"),
    *PACKAGE.glob("views/*.py"),
    *PACKAGE.glob("page/*.py"),
    *PACKAGE.glob("exporters/*.py"),
    *PACKAGE.glob("backends/*.py"),
    *PACKAGE.glob("interop/*.py"),
    *PACKAGE.glob("runtime/*.py"),
    *ROOT.glob("passes/*.py"),
]


def home(path):
    return path.parent.name if path.parent.name in FOLDERS else path.stem


def imported(path):
    """`(module path, line)` of each import of a file, those for type checkers only left out."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
        for n in ast.walk(i)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "torch2trt_onnx":
                yield from ((f"torch2trt_onnx.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)


@pytest.mark.parametrize(
    "path", [f for f in FILES if f.stem != "__init__" or f.parent != PACKAGE], ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_a_module_imports_only_what_stands_below_it(path):
    own = home(path)
    assert own in LEVEL, "give the new module a place in ORDER"
    for module, line in imported(path):
        parts = module.split(".")
        if parts[0] == "torch2trt_onnx" and len(parts) > 1 and parts[1] != own:
            assert LEVEL[parts[1]] > LEVEL[own], f"line {line} imports {module}"


def test_only_the_weakly_typed_back_end_imports_tensorrt_by_name():
    """The others are given their module, or load it by the name of its product (`library.load`).

    And so does the script for a device that has TensorRT alone, which nothing here imports.
    """
    found = {
        path.name
        for path in FILES
        for module, _ in imported(path)
        if module.split(".")[0] in ("tensorrt", "tensorrt_rtx")
    }
    assert found == {"weak.py", "postprocess.py"}


def test_importing_the_package_loads_no_other_library():
    code = "import sys, torch2trt_onnx; print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy', 'rich') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
    )


def test_the_public_names_are_all_there():
    import torch2trt_onnx

    assert all(getattr(torch2trt_onnx, name) is not None for name in torch2trt_onnx.__all__)
    from torch2trt_onnx.conversion import convert

    assert torch2trt_onnx.convert is convert


def test_a_wheel_has_the_passes_inside_the_package_and_none_beside_it(tmp_path):
    source = tmp_path / "source"  # a copy: setuptools leaves its build folder, and reuses what lies there
    for name in ("torch2trt_onnx", "passes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    expected = {f"torch2trt_onnx/passes/{p.name}" for p in ROOT.glob("passes/*.py")}
    expected |= {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.py")}
    assert expected <= set(names)
    assert {n.split("/")[0] for n in names if not n.split("/")[0].endswith(".dist-info")} == {"torch2trt_onnx"}
    data = [p for p in (PACKAGE / "page").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.suffix for p in data} >= {".j2", ".css", ".js", ".LICENSE"}
    data += [p for p in (PACKAGE / "batch").iterdir() if p.suffix not in (".py", "")]
    assert {p.relative_to(ROOT).as_posix() for p in data} | {"torch2trt_onnx/py.typed"} <= set(names)
