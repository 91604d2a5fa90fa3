"""The curves of a run: reading its history, and the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from agentsleep.errors import CheckpointDamaged
from agentsleep.training.plots import draw, plot_curves, read_history

ROOT = Path(__file__).resolve().parents[2]


def row(step: int, stage: int = 0, loss: float = 1.0, **accuracy: dict[str, float]) -> dict:
    return {"step": step, "minutes": step / 100, "stage": stage, "depth": 2, "loss": loss,
            "accuracy": {name.strip("_"): values for name, values in accuracy.items()}}  # fmt: skip


ROWS = [
    row(25, loss=3.0, _1x1={"0": 0.5, "1": 0.1}, _4x2={"1": 0.2}),
    row(50, loss=2.0, _4x2={"0": 0.6, "1": 0.4, "2": 0.1}),
    row(75, stage=1, loss=1.0, _1x1={"0": 0.9, "1": 0.3, "2": 0.2}, _4x2={"1": 0.9, "2": 0.8, "10": 0.0}),
]


@pytest.fixture
def history(tmp_path) -> Path:
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return path


def panels(figure: Figure) -> dict[str, object]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_history_is_read_in_full(history) -> None:
    assert read_history(history) == ROWS


def test_no_history_is_an_empty_one(tmp_path) -> None:
    assert read_history(tmp_path / "none.jsonl") == []


def test_steps_that_were_logged_again_after_a_kill_count_once(history) -> None:
    again = [row(50, loss=7.0), row(75, loss=8.0), row(100, loss=9.0)]
    history.write_text(history.read_text() + "".join(json.dumps(r) + "\n" for r in again))
    assert [(r["step"], r["loss"]) for r in read_history(history)] == [(25, 3.0), (50, 7.0), (75, 8.0), (100, 9.0)]


def test_a_last_line_that_was_cut_off_is_left_out(history) -> None:
    history.write_text(history.read_text() + '{"step": 100, "lo')
    assert read_history(history) == ROWS


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"step": 30}', '{"step": 30, "loss": 1, "stage": 0, "accuracy": 1}'])
def test_another_damaged_line_is_named(history, line) -> None:
    lines = history.read_text().splitlines()
    history.write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(CheckpointDamaged, match=r"line 2 of .*history.jsonl"):
        read_history(history)


def test_a_picture_is_written_whole(history, tmp_path) -> None:
    target = tmp_path / "curves.png"
    target.write_bytes(b"an earlier one")
    assert plot_curves(history, target, title="depo", chance=0.1)
    picture = imread(target)
    assert min(picture.shape[:2]) > 200
    assert np.ptp(picture[..., :3]) > 0.9  # it is not blank
    assert not list(tmp_path.glob("*.part"))


def test_nothing_is_drawn_before_the_first_row(tmp_path) -> None:
    assert not plot_curves(tmp_path / "none.jsonl", tmp_path / "curves.png")
    assert list(tmp_path.glob("*.png")) == []


def test_one_panel_for_each_passes_and_rounds() -> None:
    figure = draw(ROWS, title="depo", chance=0.1)
    assert list(panels(figure)) == ["loss", "accuracy, passes 1, rounds 1", "accuracy, passes 4, rounds 2"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["depth 1", "depth 2", "depth 10", "other words", "chance"]


def test_panels_are_in_the_order_of_numbers() -> None:
    rows = [row(25, _10x1={"1": 0.1}, _2x1={"1": 0.1}, _2x2={"1": 0.1}, _4x1={"1": 0.1})]
    titles = list(panels(draw(rows)))[1:]
    assert [t.removeprefix("accuracy, ") for t in titles] == [
        "passes 2, rounds 1", "passes 2, rounds 2", "passes 4, rounds 1", "passes 10, rounds 1",
    ]  # fmt: skip


def test_lines_hold_what_was_measured() -> None:
    shown = panels(draw(ROWS))
    loss = shown["loss"].get_lines()[0]
    assert [list(part) for part in loss.get_data()] == [[25, 50, 75], [3.0, 2.0, 1.0]]
    deep = shown["accuracy, passes 4, rounds 2"].get_lines()
    by_length = {tuple(line.get_xdata()): list(line.get_ydata()) for line in deep}
    assert by_length[25, 50, 75] == pytest.approx([0.2, 0.3, 0.5])  # depth 1, mean over the latest rows
    assert by_length[50, 75] == pytest.approx([0.1, 0.45])  # depth 2
    assert by_length[(75,)] == [0.0]  # depth 10


def test_depths_can_be_told_without_colour() -> None:
    rows = [row(25, _4x1={str(depth): depth / 10 for depth in range(1, 9)})]
    lines = [
        line for line in panels(draw(rows))["accuracy, passes 4, rounds 1"].get_lines() if line.get_marker() != "None"
    ]
    assert len({line.get_marker() for line in lines}) == len(lines) == 8
    lightness = [float(np.dot(to_rgb(line.get_color()), (0.2126, 0.7152, 0.0722))) for line in lines]
    assert all(b - a > 0.02 for a, b in pairwise(lightness))


def test_a_new_stage_is_marked() -> None:
    loss = panels(draw(ROWS))["loss"]
    assert [list(line.get_xdata()) for line in loss.get_lines()[1:]] == [[75, 75]]


def test_the_state_of_pyplot_stays_untouched() -> None:
    code = (
        "import sys\nfrom agentsleep.training.plots import draw\n"
        "draw([{'step': 1, 'stage': 0, 'loss': 1.0, 'accuracy': {'1x1': {'1': 0.5}}}])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
