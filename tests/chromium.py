"""A headless Chromium from the npm registry, for machines that reach package registries and nothing else.

    export FXREP_CHROMIUM=$(python -m tests.chromium FOLDER)

npm brings `@sparticuz/chromium` (68 MB, Linux on x86-64), which holds a browser, its libraries and a font, packed with
brotli; node unpacks them (200 MB). Prints the path of the browser, or one line that says what is missing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "@sparticuz/chromium@147.0.0"
UNPACK = """
const fs = require('fs'), [packed, file] = process.argv.slice(1)
fs.writeFileSync(file, require('zlib').brotliDecompressSync(fs.readFileSync(packed)), {mode: 0o755})
"""
START = """#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH="$here/lib" FONTCONFIG_FILE="$here/fonts.conf" exec "$here/chromium.bin" "$@"
"""
FONTS = """<fontconfig>
  <dir>/usr/share/fonts</dir><dir>{folder}/fonts</dir><cachedir>{folder}/cache</cachedir>
</fontconfig>
"""


def install(folder: Path) -> Path:
    """Put a Chromium into ``folder``; returns what starts it."""
    browser = folder.resolve() / "chromium"
    if browser.exists():
        return browser
    with tempfile.TemporaryDirectory() as work:
        call("npm", "pack", "--silent", PACKAGE, cwd=work)
        (packed,) = Path(work).glob("*.tgz")
        call("tar", "-xf", str(packed), "-C", work)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("al2023", "fonts"):
            tar = Path(work, f"{name}.tar")
            call("node", "-e", UNPACK, f"{work}/package/bin/{name}.tar.br", str(tar))
            call("tar", "-xf", str(tar), "-C", str(folder))
        call("node", "-e", UNPACK, f"{work}/package/bin/chromium.br", str(folder / "chromium.bin"))
    (folder / "fonts.conf").write_text(FONTS.format(folder=folder.resolve()))
    browser.write_text(START)
    browser.chmod(0o755)
    call(str(browser), "--no-sandbox", "--version")
    return browser


def call(*command: str, cwd: str | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    try:
        print(install(Path(sys.argv[1])))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise SystemExit(f"no Chromium: {type(error).__name__}: {error}") from None
