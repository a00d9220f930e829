"""Thousands of trivial jobs: whether what a job costs beside its conversion, and what the coordinator holds, stay as they are.

    .venv/bin/python tools/bench/many.py [--count 2000] [--jobs N] [--parts 10]

Each job is an ONNX graph of one node with a weight of its own, without a back end: what is measured is ours. Prints for each part of the
jobs: the seconds of a job by the clock, those of them in which no job ran ("beside"), the CPU time of the coordinator for each, and what it
holds. Then the same again, which only finds what is there.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from running import BENCH

from torch2trt_onnx.batch import Event, Summary, batch
from torch2trt_onnx.batch.events import FINISHED
from torch2trt_onnx.batch.pool import cores
from torch2trt_onnx.batch.sentences import lasting

PLACE = BENCH / "many"


def write(count: int) -> Path:
    """The models and their manifest."""
    shutil.rmtree(PLACE, ignore_errors=True)
    (PLACE / "models").mkdir(parents=True)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    for at in range(count):
        weight = numpy_helper.from_array(np.full(8, at, np.float32), "w")
        graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, PLACE / "models" / f"{at:05}.onnx")
    path = PLACE / "many.toml"
    path.write_text('[defaults]\nbackend = "none"\ntimeout = 120\n[[models]]\nmodel = "models/*.onnx"\n')
    return path


class Meter:
    """Tells of each part of the jobs as it is finished.

    Args:
        size: of a part.
        slots: how many run at a time.
    """

    def __init__(self, size: int, slots: int) -> None:
        self.held: list[float] = []
        self._size, self._slots = size, slots
        self._own = psutil.Process()
        self._count, self._ran = 0, 0.0
        self._since, self._cpu = time.monotonic(), time.process_time()
        print("   jobs   s/job  beside  ms CPU     MB  threads")

    def __call__(self, event: Event) -> None:
        """Count a job."""
        if event.kind != FINISHED or event.result is None:
            return
        self._count += 1
        self._ran += event.result.seconds if event.result.attempts else 0.0
        if self._count % self._size == 0:
            self._tell()

    def _tell(self) -> None:
        now, cpu = time.monotonic(), time.process_time()
        whole, used = (now - self._since) / self._size, (cpu - self._cpu) / self._size
        beside = whole - self._ran / self._size / self._slots
        self.held.append(self._own.memory_info().rss / 1e6)
        threads = self._own.num_threads()
        print(
            f"{self._count:7}  {whole:6.3f}  {beside:6.3f}  {1e3 * used:6.2f}  {self.held[-1]:5.0f}  {threads:7}",
            flush=True,
        )
        self._since, self._cpu, self._ran = now, cpu, 0.0


def main() -> None:
    """Run it twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=cores(), help="at a time; default: the cores")
    parser.add_argument("--parts", type=int, default=10)
    given = parser.parse_args()
    path = write(given.count)
    meter = Meter(given.count // given.parts, given.jobs)
    told(batch(path, PLACE / "out", jobs=given.jobs, on_event=meter))
    grown = np.polyfit(np.arange(len(meter.held)), meter.held, 1)[0] * given.parts / given.count
    print(f"the coordinator grows by {1e3 * grown:.1f} kB a job")
    told(batch(path, PLACE / "out", jobs=given.jobs, on_event=Meter(given.count // given.parts, given.jobs)))
    shutil.rmtree(PLACE)


def told(found: Summary) -> None:
    """Print what came of it."""
    print(f"{len(found.results)} jobs, {found.counts}, in {lasting(found.seconds)}")


if __name__ == "__main__":
    main()
