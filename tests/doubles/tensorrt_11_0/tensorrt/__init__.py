"""A double of TensorRT 11.0: put the folder above this one on the path."""

import importlib.util
import sys
from pathlib import Path


def _doubles() -> None:
    """Make tests/doubles importable under a name of its own, wherever this process was started."""
    if "tensorrt_doubles" not in sys.modules:
        folder = Path(__file__).resolve().parents[2]
        spec = importlib.util.spec_from_file_location(
            "tensorrt_doubles", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules["tensorrt_doubles"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tensorrt_doubles"])


_doubles()
importlib.import_module("tensorrt_doubles.model").install("11.0", globals())
