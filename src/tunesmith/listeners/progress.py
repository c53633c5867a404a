"""What a run tells the person who waits: bars with rate and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

TASKS = {"prepare": "reading rows", "embed": "embedding texts", "train": "training", "evaluate": "reading test rows", "predict": "predicting"}
PLAIN_SECONDS = 10.0
"""Without a terminal, a line of progress at most this often."""


class Teller:
    """Hears a run's events and shows them on stderr, so that stdout stays for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name = ""
        self._told = self._began = 0.0
        self._first = 0

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "progress":
            self._progress(event)
            return
        if kind not in ("step", "checkpoint"):
            self.close()
        said: dict[str, Callable[[dict[str, Any]], str | None]] = {
            "stage": self._stage,
            "valid": lambda e: f"  {_place(e)} {_figures(e)}{'  (best so far)' if e['best'] else ''}",
            "resumed": lambda e: f"  resumed at step {e['step']}",
            "skipped": lambda e: f"[yellow]  step {e['step']} skipped: its {e['what']} was not finite[/]",
            "warning": lambda e: f"[yellow]  {_safe(e['text'])}[/]",
            "note": lambda e: f"  [dim]{_safe(e['text'])}[/]",
            "trained": _trained,
        }
        text = said[kind](event) if kind in said else None
        if text:
            self.console.print(text)

    def _stage(self, event: dict[str, Any]) -> str | None:
        name, status = event["stage"], event["status"]
        if status == "started":
            return f"[bold]{name}[/]"
        if status == "finished":
            return f"  [green]done[/] in {event['seconds']:.1f} s"
        return f"[bold]{name}[/]: " + ("done before, reused" if status == "reused" else f"the same as in run {event['from']}, shared")

    def _progress(self, event: dict[str, Any]) -> None:
        name, done, of = event["task"], event["done"], event["of"]
        now = time.monotonic()
        if not self.console.is_terminal:
            if self._name != name:
                self._name, self._told, self._began, self._first = name, now, now, done
            if now - self._told >= PLAIN_SECONDS and done < of:
                left = (now - self._began) / max(done - self._first, 1) * (of - done)
                far = f"{done} of {of}" if "rows" not in event else f"{event['rows']:,} rows, {100 * done // max(1, of)} %"
                self.console.print(f"  {TASKS.get(name, name)}: {far}{_rate(event)}, about {left:.0f} s left")
                self._told = now
            return
        if self._bar is None or self._name != name:
            self.close()
            share = TaskProgressColumn() if "rows" in event else MofNCompleteColumn()  # of bytes the share says more than the number
            columns: list[ProgressColumn] = [TextColumn("  {task.description}"), BarColumn(), share, TextColumn("{task.fields[rate]}"), TimeRemainingColumn()]
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task, self._name = self._bar.add_task(TASKS.get(name, name), total=of, rate=""), name
        assert self._task is not None
        if now - self._told >= 0.1 or done == of:
            self._bar.update(self._task, completed=done, total=of, rate=_rate(event))
            self._told = now

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _rate(event: dict[str, Any]) -> str:
    if event.get("seconds") and "rows" in event:
        return f", {event['rows'] / event['seconds']:,.0f} rows/s"
    return f", {event['tokens'] / event['seconds']:,.0f} tokens/s" if event.get("seconds") and "tokens" in event else ""


def _place(event: dict[str, Any]) -> str:
    return f"penalty {event['penalty']:.2g}: held-out" if "penalty" in event else f"epoch {event['epoch']:g}: validation"


def _trained(event: dict[str, Any]) -> str:
    if "penalty" in event:
        return f"  {event['steps']} penalties in {event['seconds']:.1f} s, kept {event['penalty']:.2g}"
    return f"  {event['steps']} steps in {event['seconds']:.1f} s, {event['tokens_per_second']:,.0f} tokens/s, kept step {event['kept_step']}"


def _figures(event: dict[str, Any]) -> str:
    shown = {name: value for name, value in event.items() if name in ("loss", "accuracy", "micro_f1")}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown.items())


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def is_terminal() -> bool:
    """Whether a person watches."""
    return sys.stderr.isatty()
