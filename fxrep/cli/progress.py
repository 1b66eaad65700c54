"""Progress for what takes over a second, on stderr, and only where somebody watches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Tick = Callable[[int, int], None]


class Steps:
    """The steps of a command, shown one at a time, with the seconds that each took."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._task = progress.add_task("", total=None)

    @contextlib.contextmanager
    def step(self, name: str, text: str) -> Iterator[Tick]:
        """Show ``text`` while the block runs; the block may say how far it is."""
        self._progress.reset(self._task, description=text, total=None)
        start = time.perf_counter()
        try:
            yield lambda done, total: self._progress.update(self._task, completed=done, total=total)
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)


@contextlib.contextmanager
def steps() -> Iterator[Steps]:
    """Show the steps of the block."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Steps(progress)
