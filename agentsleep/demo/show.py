"""The demonstration as a terminal shows it: live where there is one, plain lines everywhere else."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentsleep.archive import Snapshot
from agentsleep.demo.watching import Status
from agentsleep.tokens import CALL

LAST = 8  # messages that the live display keeps in sight
_COLOURS = {"user": "cyan", "assistant": "green", "tool": "yellow", "system": "magenta"}


class Display:
    """Shows the agent at work; a context manager. A :class:`agentsleep.demo.watching.Watcher`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._said: deque[tuple[str, str]] = deque(maxlen=LAST)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._still()

    def chapter(self, title: str) -> None:
        """A heading."""
        self._still()
        self._said.clear()
        self.console.print()
        self.console.print(Text(title, style="bold"))

    def remark(self, line: str) -> None:
        """A line below the display."""
        self._still()
        self.console.print(Text(f"  {line}"), soft_wrap=not self.console.is_terminal)

    def status(self, now: Status) -> None:
        """The session after a turn."""
        if not self.console.is_terminal:
            for text in plain_lines(now):
                self.console.print(Text(text), soft_wrap=True)
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        for snapshot in now.slept:
            self._live.console.print(Text(f"  {slept(snapshot)}", style="blue"))
        self._said.extend(now.turn)
        self._live.update(panel(now, list(self._said)), refresh=True)

    def _still(self) -> None:
        """Leaves the last picture where it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def panel(now: Status, said: list[tuple[str, str]]) -> RenderableType:
    """The window's fill, the counters, and the last messages."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        "window",
        ProgressBar(total=now.capacity, completed=now.window_tokens, width=32),
        f"{now.window_tokens}/{now.capacity} tokens",
        f"in all {now.tokens}",
        f"sleeps and snapshots {now.snapshots}",
    )
    lines = [Text.assemble((f"{role:>9}  ", _COLOURS.get(role, "")), shown(text)) for role, text in said]
    lines += [Text("")] * (LAST - len(lines))
    return Panel(Group(head, Text(""), *lines), title=now.title, title_align="left", width=100)


def plain_lines(now: Status) -> list[str]:
    """The same for where no terminal is: one line a turn, one a sleep."""
    lines = [f"    {slept(snapshot)}" for snapshot in now.slept]
    if now.turn:
        said = " | ".join(f"{role}: {shown(text)}" for role, text in now.turn)
        lines.append(f"  window {now.window_tokens}/{now.capacity}, in all {now.tokens} | {said}")
    return lines


def slept(snapshot: Snapshot) -> str:
    """A sleep in one line."""
    m = snapshot.metrics
    return (
        f"sleep ({snapshot.trigger}): {m['tokens']} tokens, {snapshot.passes} pass{'es' * (snapshot.passes > 1)}, "
        f"{m['ms']:.0f} ms; snapshot {snapshot.id[:8]} ({snapshot.state_bytes:,} bytes), window evicted"
    )


def shown(text: str, most: int = 60) -> str:
    """A message in one line of at most so many characters; a tool call as a call."""
    body = text.removeprefix(CALL)
    if body != text:
        try:
            call = json.loads(body)
            arguments = ", ".join(f"{name}={value!r}" for name, value in call["arguments"].items())
            return f"→ {call['name']}({arguments})"
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def report(document: Mapping[str, Any]) -> RenderableType:
    """What stands at the end: some questions, the fork, the new process, and accuracy by depth."""
    parts: list[RenderableType] = [Text(""), examples(document), Text(""), fork_table(document), Text("")]
    parts += [accuracy_table(document), Text("")]
    again = document["again"]
    verdict = "all the same" if again["equal"] else "NOT the same"
    parts.append(
        Text(
            f"A new process (pid {again['pid']}) restored {again['threads']} threads from the archive and was asked "
            f"all {again['questions']} questions again: {verdict} ({again['same_answers']} equal answers, logits "
            f"differ by at most {again['largest_logit_difference']:g}).",
            style="green" if again["equal"] else "bold red",
        )
    )
    files = document["files"]
    parts.append(Text(f"Chart: {files['chart']}\nAll figures and answers: {files['document']}"))
    parts.append(Text(f"Archive: {document['archive']} (agentsleep snapshots list --archive {document['archive']})"))
    parts.append(Text(f"{document['seconds']} s"))
    return Group(*parts)


def examples(document: Mapping[str, Any]) -> Table:
    """One question of each depth, with every condition's answer."""
    by_text: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in document["answers"]:
        by_text.setdefault(row["text"], {})[row["name"]] = row
    names = list(dict.fromkeys(row["name"] for row in document["answers"]))
    table = Table("question", "right answer", *(n.replace(" + ", "\n+ ") for n in names), title="Some of the questions")
    depths: set[int] = set()
    for text, answers in by_text.items():
        first = next(iter(answers.values()))
        if first["depth"] not in depths:
            depths.add(first["depth"])
            table.add_row(text, first["expected"], *(_mark(answers[n]["answer"], answers[n]["right"]) for n in names))
    return table


def fork_table(document: Mapping[str, Any]) -> Table:
    """Who comes after each person, asked of a fork that has heard of some of them only."""
    fork = document["fork"]
    before, later = fork["told_before"], fork["told_later"]
    table = Table(
        "question",
        "fact told",
        "the fork answers",
        title=f"A fork of snapshot {fork['snapshot']['id'][:8]} of {fork['of']}, taken after "
        f"{fork['snapshot']['tokens']} tokens",
        caption=f"told before: {before['knows']} of {before['questions']} known; told later: {later['knows']} of "
        f"{later['questions']} known, {later['unknown']} 'unknown'",
    )
    for row in fork["people"]:
        table.add_row(row["text"], "before" if row["told"] else "later", _mark(row["answer"], row["right"]))
    return table


def accuracy_table(document: Mapping[str, Any]) -> Table:
    """Accuracy by depth: a row for each depth, a column for each way of sleeping."""
    asked = document["questions_per_depth"]
    table = Table(
        "depth",
        title="Accuracy by depth, asked after every fact was evicted",
        caption=f"{asked} questions a cell, from one rota of {document['people']} people (seed {document['seed']}), "
        "measured in this run; `agentsleep eval rota` asks about many",
    )
    cells: dict[str, dict[int, str]] = {}
    for row in document["results"]:
        low, high = row["interval"]
        cells.setdefault(row["name"], {})[row["depth"]] = f"{row['accuracy']:.2f} [dim]{low:.2f}–{high:.2f}[/dim]"
    for name in cells:
        table.add_column(name.replace(" + ", "\n+ "), justify="right", no_wrap=True)
    table.add_column("chance", justify="right")
    for depth in sorted({row["depth"] for row in document["results"]}):
        table.add_row(f"{depth}", *(column[depth] for column in cells.values()), f"{document['chance']:.2f}")
    return table


def _mark(answer: str, right: bool) -> Text:
    return Text(f"{'✓' if right else '✗'} {shown(answer, 16) or '(nothing)'}", style="green" if right else "red")
