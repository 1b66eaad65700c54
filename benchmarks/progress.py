"""A progress bar where rich is installed, and a line for each case where it is not."""

import importlib.util
import sys
from types import TracebackType
from typing import Any


class Progress:
    """`with Progress(total) as progress`, then `start(description)` for each case, and `tick(fraction)` within it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = -1
        self.bar: Any = None
        if importlib.util.find_spec("rich") is not None and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self.bar = progress.Progress(
                *progress.Progress.get_default_columns(),
                progress.TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def start(self, description: str) -> None:
        self.done += 1
        if self.bar:
            self.bar.update(self.task, description=description, completed=self.done)
        else:
            print(f"[{self.done + 1}/{self.total}] {description}", file=sys.stderr, flush=True)

    def tick(self, fraction: float) -> None:
        if self.bar:
            self.bar.update(self.task, completed=self.done + fraction)

    def say(self, line: str) -> None:
        """One line that stays on the screen."""
        if self.bar:
            self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
