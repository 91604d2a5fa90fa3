from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.container import ErrorbarContainer

from agentsleep.evals.plots import draw_accuracy, plot_accuracy

ROWS: list[dict[str, Any]] = [
    {
        "passes": n,
        "rounds": r,
        "depth": depth,
        "accuracy": 1.0 / depth,
        "interval": [0.9 / depth, min(1.0, 1.1 / depth)],
    }
    for n in (4, 1)
    for r in (1, 2)
    for depth in (2, 1, 3)
]


def test_one_line_with_intervals_for_each_passes_and_rounds() -> None:
    figure = draw_accuracy({"fork": ROWS, "sequence": ROWS[:3]}, title="t", chance=0.1)
    fork, sequence = figure.axes
    lines = [c for c in fork.containers if isinstance(c, ErrorbarContainer)]
    assert [line.get_label() for line in lines] == [f"passes {n}, rounds {r}" for n in (1, 4) for r in (1, 2)]
    looks = {(line.lines[0].get_color(), line.lines[0].get_linestyle()) for line in lines}
    assert len(looks) == 4
    for line in lines:
        assert [round(x) for x in line.lines[0].get_xdata()] == [1, 2, 3]
        assert list(line.lines[0].get_ydata()) == pytest.approx([1.0, 1 / 2, 1 / 3])
        (bars,) = line.lines[2]
        ends = [sorted(y for _, y in segment) for segment in bars.get_segments()]
        assert ends == [pytest.approx([0.9 / d, min(1.0, 1.1 / d)]) for d in (1, 2, 3)]
    assert [t.get_text() for t in (fork.title, sequence.title)] == ["fork", "sequence"]


def test_chance_and_a_baseline_are_named_in_the_legend() -> None:
    baseline = [{"name": "no-memory", "depth": depth, "accuracy": 0.08} for depth in (1, 2, 3)]
    figure = draw_accuracy({"fork": ROWS}, chance=0.1, baseline=baseline)
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert {"chance", "no-memory"} <= set(named)
    assert len(named) == 6


def test_the_file_is_a_picture_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "accuracy.png"
    target.write_text("old")
    plot_accuracy({"fork": ROWS}, target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plot_accuracy({"fork": ROWS}, tmp_path / "none" / "accuracy.png")
