"""The displays of progress, in a terminal and elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from agentsleep.cli.progress import TrainingDisplay, bar, line
from agentsleep.training.config import TrainConfig
from agentsleep.training.loop import Progress

NOW = Progress(
    step=1250, minutes=3.14, stage=1, depth=3, loss=0.5, accuracy={"1x1": {0: 0.5, 1: 0.9}, "4x1": {1: 1.0, 3: 0.25}}
)


def shown(terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system=None)
    with TrainingDisplay(console, "depo", TrainConfig(max_steps=2500)) as display:
        display.report(NOW)
    return stream.getvalue()


def test_a_line_for_a_file() -> None:
    assert line(NOW) == "step 1250 | 3.1 min | stage 1 | depth 3 | loss 0.500 | 1x1 1:0.90 | 4x1 1:1.00 3:0.25"
    assert shown(terminal=False) == line(NOW) + "\n"


def test_a_bar_and_a_table_for_a_terminal() -> None:
    text = shown(terminal=True)
    assert "step 1,250  stage 1  depth 3  loss 0.500" in text
    assert "50 %" in text
    assert "4x1" in text
    assert "0.25" in text


def test_the_plain_bar_is_silent_where_there_is_no_terminal() -> None:
    for terminal in (False, True):
        stream = io.StringIO()
        with bar(Console(file=stream, force_terminal=terminal, width=80), "questions") as progress:
            progress(0.5)
        assert ("questions" in stream.getvalue()) == terminal
