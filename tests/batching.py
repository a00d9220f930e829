"""Small models, good and bad, and manifests of them, for the tests of batches."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper, save

from torch2trt_onnx.batch.job import Job

MAKERS = """
import os, re, signal, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent
SMALL = '<ir_version: 10, opset_import: ["": 20]> g (float[2, 8] x) => (float[2, 8] y) { y = Relu(x) }'


def module():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())


def small():
    import onnx.parser

    return onnx.parser.parse_model(SMALL)


def wrong():
    raise ValueError("there are no weights\\nand more lines")


def crashes():
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves():
    os._exit(3)


def killed_once():
    if not (mark := HERE / "killed").exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return small()


def killed_always():
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    (HERE / "pid").write_text(str(os.getpid()))
    re.fullmatch("(a+)+", "a" * 60 + "b")  # in C, and nothing else may run in this process


def hangs_with_a_child():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (HERE / "child").write_text(str(child.pid))
    hangs()


def eats():
    held = bytearray(10 << 30)
    time.sleep(60)


def eats_in_a_child():
    subprocess.run([sys.executable, "-c", "import time; held = bytearray(2 << 30); time.sleep(60)"])


def eats_some():
    held = b"1" * (500 << 20)
    time.sleep(0.5)
    return small()


def slow():
    time.sleep(1)
    return small()
"""


def write_onnx(path: Path, seed: int = 0, width: int = 8) -> Path:
    """A matrix product of two rows."""
    weight = np.random.default_rng(seed).standard_normal((width, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, width])],
        [numpy_helper.from_array(weight, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def maker(folder: Path, name: str, **said: object) -> Job:
    """A job whose model is one of `MAKERS`."""
    (folder / "makers.py").write_text(MAKERS)
    given = {"inputs": ("x:2x8",), "backend": "none", "timeout": 60.0, **said}
    return Job(name, f"makers:{name}", home=str(folder), **given)


def onnx_job(path: Path, **said: object) -> Job:
    """A job that is done in half a second."""
    return Job(path.stem, str(path), **{"backend": "none", "options": {"compare": False}, "timeout": 60.0, **said})


START = """
import sys
from torch2trt_onnx.batch import batch

found = batch(sys.argv[1], sys.argv[2], jobs=2)
print({result.job: result.status for result in found.results}, flush=True)
sys.exit(found.code)
"""


def start(manifest: Path, out: Path, **how: object) -> subprocess.Popen:
    """A run in a process of its own."""
    command = [sys.executable, "-c", START, str(manifest), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def contents(out: Path) -> dict[str, str]:
    """Path -> hash of all that a run makes but for times: of conversions, and of the results what they say."""
    found = {}
    for path in sorted((out / "objects").rglob("*")):
        if path.name == "result.json":
            data = json.loads(path.read_text())
            found[str(path.relative_to(out))] = json.dumps(
                [data[key] for key in ("key", "status", "reason", "numbers")]
            )
        elif path.is_file() and path.name not in ("log.txt", "job.json"):
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    links = {str(link.relative_to(out)): os.readlink(link) for link in (out / "by-name").iterdir()}  # noqa: PTH115
    return {**found, **links}


def leftovers(out: Path) -> list[str]:
    """What should not be there once no run is: all but objects, links, the lines, and the one lock."""
    known = {"objects", "by-name", "results.jsonl", "overview.html", ".state"}
    found = [path for path in out.iterdir() if path.name not in known]
    found += [path for path in (out / ".state").rglob("*") if path.name not in ("lock", "runs", "locks")]
    found += [path for path in (out / "objects").iterdir() if len(path.name) != 64]
    found += (out / "objects").rglob("tmp")
    return [str(path) for path in found]


def ended(*pids: int, within: float = 10.0) -> bool:
    """Whether processes end in some time; zombies have ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(path: Path, within: float = 30.0) -> str:
    """What a file holds, once it holds something."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")
