"""A headless Chromium for the tests of the page and for its pictures: in .venv/chromium, without root, the same one on each machine.

    .venv/bin/python tools/browser.py    # installs it, once; exits with 1 and the reason where that cannot be

Playwright's own download is not to be had from a package registry. The npm package @sparticuz/chromium ships a headless shell with the
few libraries that a bare container has not, and a font; npm keeps each version for good, and its digest is pinned here. With it comes
axe-core, which knows the rules of accessible pages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM, AXE = "@sparticuz/chromium@147.0.0", "axe-core@4.14.1"
SHA256 = {
    CHROMIUM: "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b",
    AXE: "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
}
PLACE = Path(__file__).parents[1] / ".venv" / "chromium"
PROGRAM, LIBRARIES, FONTS, RULES = PLACE / "chromium", PLACE / "lib", PLACE / "fonts.conf", PLACE / "axe.min.js"
STAMP = PLACE / ".installed"
PACKED = ("chromium", "al2023.tar", "fonts.tar")
UNPACK = "const z=require('zlib'),f=require('fs');f.writeFileSync(process.argv[2],z.brotliDecompressSync(f.readFileSync(process.argv[1])))"
FONTS_CONF = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{place}/fonts</dir><dir>/usr/share/fonts</dir>
  <cachedir>{place}/cache</cachedir>
  <alias binding="same"><family>sans-serif</family><prefer><family>Open Sans</family></prefer></alias>
  <alias binding="same"><family>system-ui</family><prefer><family>Open Sans</family></prefer></alias>
  <alias binding="same"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


def install() -> None:
    """Fetch and unpack it, unless it is there.

    Raises:
        OSError, subprocess.CalledProcessError: npm or node is missing, or the package cannot be fetched.
        ValueError: the package is not the one that is pinned.
    """
    if not missing():
        return
    print(f"Fetching {CHROMIUM} (65 MB, once)", file=sys.stderr)
    shutil.rmtree(PLACE, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=PLACE.parent) as name:
        fresh = Path(name) / "chromium"
        fresh.mkdir()
        source = fetched(CHROMIUM, Path(name) / "browser") / "bin"
        for packed in PACKED:
            subprocess.run(["node", "-e", UNPACK, source / f"{packed}.br", fresh / packed], check=True)
        for packed in PACKED[1:]:
            with tarfile.open(fresh / packed) as tar:
                tar.extractall(fresh, filter="data")
            (fresh / packed).unlink()
        (fresh / PROGRAM.name).chmod(0o755)
        (fresh / FONTS.name).write_text(FONTS_CONF.format(place=PLACE))
        shutil.copy(fetched(AXE, Path(name) / "rules") / RULES.name, fresh)
        (fresh / STAMP.name).write_text(str(SHA256))
        fresh.rename(PLACE)


def fetched(package: str, folder: Path) -> Path:
    """Where the files of a package of npm lie, once it has the digest that is pinned.

    Raises:
        OSError, subprocess.CalledProcessError: npm is missing, or cannot fetch it.
        ValueError: it is another one.
    """
    folder.mkdir()
    subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256[package]:
        raise ValueError(f"{package} has the digest {found}, not {SHA256[package]}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def missing() -> str:
    """Why there is no browser; "" where there is one."""
    if not STAMP.is_file() or STAMP.read_text() != str(SHA256):
        return f"no Chromium in {PLACE}: tools/browser.py installs it, with npm"
    return ""


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, for Playwright."""
    from playwright.sync_api import sync_playwright

    environment = {**os.environ, "LD_LIBRARY_PATH": str(LIBRARIES), "FONTCONFIG_FILE": str(FONTS)}
    arguments = ["--disable-gpu", "--font-render-hinting=none"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=arguments, env=dict(environment))
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    try:
        install()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"no Chromium: {error}")
