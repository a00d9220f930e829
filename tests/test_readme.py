"""The examples of the README run as they stand there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def run(command, folder):
    """What a command prints."""
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    done = subprocess.run(words, cwd=folder, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the Python example ran; it leaves the folder `out` and its model as net.pt, beside the rules and the manifest of a batch."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "nets").mkdir()
    for name, text in zip(("rules.toml", "jobs.toml"), blocks("toml"), strict=True):
        (folder / name).write_text(text)
    script = folder / "example.py"
    script.write_text("\n".join(blocks("python")) + "\ntorch.jit.script(Net()).save('net.pt')\n")
    subprocess.run([sys.executable, str(script)], cwd=folder, check=True, capture_output=True, timeout=300)
    # Each process of the tests has a folder of its own, and runs some of the commands: what others read is made for all.
    kept = next(line[2:] for block in blocks("console") for line in block.splitlines() if "--keep-stages" in line)
    shutil.copy(folder / "out" / "model.onnx", folder / "nets" / "small.onnx")
    run(kept, folder)
    return folder


def test_the_python_example_runs_and_saves_four_files(folder):
    assert {p.name for p in (folder / "out").iterdir()} == {
        "model.onnx",
        "model.engine",
        "report.json",
        "manifest.json",
    }


@pytest.mark.parametrize("command", [line[2:] for block in blocks("console") for line in block.splitlines()])
def test_the_command_runs(command, folder):
    assert run(command, folder)
