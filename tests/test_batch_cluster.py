"""Jobs on a real Dask scheduler, with two worker processes on loopback."""

import json
import os
import signal
import subprocess
import sys
import time

import onnx
import psutil
import pytest

from torch2trt_onnx import Conversion
from torch2trt_onnx.batch import batch, remote
from torch2trt_onnx.batch.events import FINISHED, PHASE, RETRIED, STARTED
from torch2trt_onnx.batch.request import read
from torch2trt_onnx.errors import BackendError

distributed = pytest.importorskip("distributed")

SLOW = """
import time, torch
def make():
    time.sleep({seconds})
    return torch.nn.Linear(8, 8)
"""


class Cluster:
    """A scheduler and its workers, each a process."""

    def __init__(self, folder):
        self.folder, self.workers, self._file = folder, [], folder / "scheduler.json"
        where = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", self._file]
        blame_at_once = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        self.scheduler = self._start("scheduler", *where, **blame_at_once)

    @property
    def address(self):
        deadline = time.monotonic() + 30
        while not self._file.is_file() or not self._file.read_text().endswith("}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return json.loads(self._file.read_text())["address"]

    def add(self, *words, **environment):
        name = f"w{len(self.workers)}"
        where = ["--nthreads", "1", "--no-nanny", "--name", name, "--local-directory", self.folder / name]
        self.workers.append(self._start("worker", self.address, *where, *words, **environment))
        return self.workers[-1]

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()

    def _start(self, kind, *words, **environment):
        with (self.folder / f"{kind}-{len(self.workers)}.log").open("wb") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *map(str, words)]
            return subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
            )


@pytest.fixture
def cluster(tmp_path):
    """One for a test that ends parts of it."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    found = Cluster(folder)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """One with two workers for all tests that leave it as it is; the second worker has a GPU, or says so."""
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    found.add()
    found.add("--resources", "GPU=1", WHO="the one with the GPU")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a manifest of five jobs, one of which cannot be done."""
    folder = tmp_path_factory.mktemp("models")
    for at in range(4):
        text = f"net{at} (float[2, 8] x) => (float[2, 8] y) <float w = {{{at}.5}}> {{ z = Mul(x, w) y = Relu(z) }}"
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
        onnx.save(model, folder / f"net{at}.onnx")
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "jobs.toml").write_text(
        '[defaults]\nbackend = "none"\n[[models]]\nmodel = "net*.onnx"\n[[models]]\nmodel = "broken.onnx"\n'
    )
    return folder


@pytest.fixture(scope="module")
def local(models, tmp_path_factory):
    """What comes of them on this machine."""
    out = tmp_path_factory.mktemp("local")
    assert batch(models / "jobs.toml", out).counts == {"done": 4, "failed": 1}
    return out


def slow(folder, seconds, **settings):
    """A manifest of one job that takes its time."""
    folder.mkdir()
    (folder / "slow.py").write_text(SLOW.format(seconds=seconds))
    rest = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()).replace(":", " =")
    (folder / "jobs.toml").write_text(
        f'[[models]]\nmodel = "slow:make"\ninputs = ["x:2x8"]\nbackend = "none"\nretries = 0\n{rest}'
    )
    return folder / "jobs.toml"


def graphs(out):
    return {path.parent.name: path.read_bytes() for path in out.glob("objects/*/model.onnx")}


def jobs_of(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if child.is_running()]


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def left_in(out):
    return [path for folder in ("runs", "locks") for path in (out / ".state" / folder).iterdir()]


def test_a_worker_that_is_killed_on_the_way_costs_nothing_but_time(cluster, models, local, tmp_path):
    cluster.add()
    for number in range(5):  # where it is killed between two jobs, none is lost: then once more
        out, events = tmp_path / f"out{number}", []
        found = killed_on_the_way(cluster, models, out, events)
        assert found.counts == {"done": 4, "failed": 1}
        assert graphs(out) == graphs(local)  # under the same keys
        assert left_in(out) == []
        assert batch(models / "jobs.toml", out, cluster=cluster.address).counts == {"reused": 4, "failed": 1}
        if again := [event for event in events if event.kind == RETRIED]:
            break
    (lost,) = again
    assert lost.phase == "its worker was lost"
    (retried,) = [result for result in found.results if result.attempts > 1]
    assert retried.job == lost.job
    kinds = [event.kind for event in events if event.job == lost.job and event.kind != PHASE]
    assert kinds[-3:] == [RETRIED, STARTED, FINISHED]


def killed_on_the_way(cluster, models, out, events):
    """A run in which one of the workers is killed while it is at a job."""
    first = cluster.add()

    def watch(event):
        events.append(event)
        if first.poll() is None and event.kind == PHASE and len(jobs_of(first)) > 0:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()

    found = batch(models / "jobs.toml", out, cluster=cluster.address, on_event=watch)
    assert first.returncode == -signal.SIGKILL
    return found


def test_files_go_through_a_place_of_exchange_where_the_workers_do_not_see_ours(lasting, models, local, tmp_path):
    out, place = tmp_path / "out", tmp_path / "exchange"
    found = batch(models / "jobs.toml", out, cluster=lasting.address, exchange=place.as_uri())
    assert found.counts == {"done": 4, "failed": 1}
    assert graphs(out) == graphs(local)
    one = found.results[0]
    assert Conversion.load(out / one.folder).report.source == str(models / "net0.onnx")
    assert (out / one.folder / "report.html").is_file()
    assert len(list((place / "files").iterdir())) == 4  # each by its content, and of what was made nothing is left
    assert list((place / "results").iterdir()) == []
    assert left_in(out) == []
    scratch = list((lasting.folder).glob("w*/*/*/tmp*"))
    assert scratch == []


@pytest.mark.parametrize("shares_files", [True, False])
def test_workers_fetch_models_that_are_urls_themselves(shares_files, lasting, models, local, tmp_path):
    manifest = tmp_path / "jobs.toml"
    lines = [f'[[models]]\nmodel = "{(models / name).as_uri()}"\n' for name in ("net1.onnx", "missing.onnx")]
    manifest.write_text('[defaults]\nbackend = "none"\n' + "".join(lines))
    exchange = None if shares_files else (tmp_path / "exchange").as_uri()
    found = batch(manifest, tmp_path / "out", cluster=lasting.address, exchange=exchange)
    assert found.counts == {"done": 1, "failed": 1}
    assert graphs(tmp_path / "out").items() <= graphs(local).items()
    assert "the model cannot be fetched" in found.results[1].reason and "missing.onnx" in found.results[1].reason


def test_a_function_and_its_files_are_sent_too(lasting, tmp_path):
    manifest = slow(tmp_path / "models", 0)
    found = batch(manifest, tmp_path / "out", cluster=lasting.address, exchange=(tmp_path / "exchange").as_uri())
    assert found.counts == {"done": 1}


def test_a_job_goes_to_the_worker_that_has_its_resource(lasting, tmp_path):
    manifest = slow(tmp_path / "models", 0)
    source = tmp_path / "models" / "slow.py"
    source.write_text(
        SLOW.format(seconds=0).replace("def make():", "import os\ndef make():\n    print(os.environ.get('WHO'))")
    )
    manifest.write_text(manifest.read_text() + "resources = { GPU = 1 }\n")
    (found,) = batch(manifest, tmp_path / "out", cluster=lasting.address).results
    assert "the one with the GPU" in (tmp_path / "out" / found.folder / "log.txt").read_text()


def test_a_resource_that_no_worker_has_is_the_result_of_the_job(lasting, tmp_path):
    manifest = slow(tmp_path / "models", 0)
    manifest.write_text(manifest.read_text() + "resources = { GPU = 2 }\n")
    (found,) = batch(manifest, tmp_path / "out", cluster=lasting.address).results
    assert (found.status, found.reason) == ("failed", "no worker of the cluster has GPU=2")
    assert not found.is_final


def test_limits_of_a_job_hold_on_a_worker(lasting, tmp_path):
    manifest = slow(tmp_path / "models", 600, timeout=2)
    (found,) = batch(manifest, tmp_path / "out", cluster=lasting.address).results
    assert (found.status, found.reason) == ("timeout", "it ran longer than 2 s")
    assert not any(map(jobs_of, lasting.workers))


def test_a_worker_that_does_not_see_the_results_says_so(lasting, tmp_path):
    import distributed

    manifest = slow(tmp_path / "models", 0)

    (job,) = read(manifest).jobs
    with distributed.Client(lasting.address, set_as_default=False) as client:
        data, made = client.submit(remote.convert, (job.to_json(), None, None), "/nowhere", "topic").result()
    assert "does not see /nowhere" in data["reason"] and "--exchange" in data["reason"]
    assert made == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_runs_on_workers_ends_with_the_coordinator(how, cluster, tmp_path):
    worker = cluster.add()
    manifest = slow(tmp_path / "models", 600)
    command = [
        sys.executable,
        "-m",
        "torch2trt_onnx.cli",
        "batch",
        manifest,
        "-o",
        tmp_path / "out",
        "--cluster",
        cluster.address,
    ]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as coordinator:
        until(lambda: jobs_of(worker))
        coordinator.send_signal(how)
        _, errors = coordinator.communicate(timeout=30)
    until(lambda: not jobs_of(worker))
    if how == signal.SIGTERM:
        assert coordinator.returncode == 1
        assert "the same command goes on" in errors


def test_a_job_that_kills_its_workers_is_named_and_the_others_are_done(cluster, models, tmp_path):
    for _ in range(4):
        cluster.add()
    folder = tmp_path / "models"
    manifest = slow(folder, 0)
    (folder / "slow.py").write_text("import os\ndef make():\n    os.kill(os.getppid(), 9)\n")
    manifest.write_text(f'{manifest.read_text()}[[models]]\nbackend = "none"\nmodel = "{models}/net*.onnx"\n')
    found = batch(manifest, tmp_path / "out", cluster=cluster.address)
    assert found.counts == {"done": 4, "crashed": 1}
    assert found.results[0].reason == "each worker that was given it died"
    assert sum(worker.poll() is not None for worker in cluster.workers) == 2


def test_a_scheduler_that_dies_is_one_error_and_what_is_done_stays(cluster, models, tmp_path):
    worker = cluster.add()
    manifest = slow(tmp_path / "models", 600)
    manifest.write_text(f'[[models]]\nbackend = "none"\nmodel = "{models}/net0.onnx"\n{manifest.read_text()}')

    def watch(event):
        if event.job == "make" and event.kind == PHASE:
            cluster.scheduler.kill()

    with pytest.raises(BackendError, match="the scheduler of the cluster is gone"):
        batch(manifest, tmp_path / "out", cluster=cluster.address, on_event=watch)
    until(lambda: not jobs_of(worker))
    (kept,) = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert (kept["job"], kept["status"]) == ("net0", "done")


def test_a_scheduler_that_is_not_there_is_an_error_that_says_so(tmp_path, monkeypatch):
    import dask

    manifest = slow(tmp_path / "models", 0)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(BackendError, match="cannot be reached"),
    ):
        batch(manifest, tmp_path / "out", cluster="tcp://127.0.0.1:9")
