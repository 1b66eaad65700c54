"""The ``fxrep`` command: ``main`` is what the shell runs. It says so where the extra ``cli`` is missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or name the extra that it needs."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        print(f'error: the command line needs {error.name}: pip install "fxrep[cli]"', file=sys.stderr)
        raise SystemExit(2) from None
    app()
