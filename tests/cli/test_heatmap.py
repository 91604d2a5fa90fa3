"""The picture of a comparison: what each panel shows, at any number of layers and heads, and where it cannot go."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from agentsleep.cli.heatmap import draw_heatmap, plot_heatmap
from agentsleep.compare import StateDiff, compare
from agentsleep.errors import InputError
from agentsleep.state import FastWeights


def grid(*heads: int) -> StateDiff:
    """A layer for each number of heads."""
    tensors = {f"layers.{2 * i}.recurrent": torch.randn(1, count, 2, 2) for i, count in enumerate(heads)}
    a = FastWeights(tensors)
    return compare(a, FastWeights({name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in tensors.items()}))


def panels(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.images]


def shown(axis: Axes) -> NDArray[np.float64]:
    """What a panel holds, NaN where nothing is drawn."""
    array = axis.images[0].get_array()
    assert array is not None
    return np.ma.filled(np.ma.asarray(array, dtype=float), math.nan)


def test_three_panels_with_every_head_in_its_place() -> None:
    diff = grid(2, 3)
    figure = draw_heatmap(diff, title="t", legend="l")
    drawn = panels(figure)
    assert [axis.get_title().split()[0] for axis in drawn] == ["relative", "cosine", "effective"]
    for axis, name in zip(drawn, ("relative", "cosine", "rank"), strict=True):
        values = shown(axis)
        assert values.shape == (2, 3)
        assert math.isnan(values[0, 2])  # the first layer has no third head
        expected = [[getattr(head, name) for head in layer.heads] for layer in diff.layers]
        assert values[0, :2].tolist() == pytest.approx(expected[0])
        assert values[1].tolist() == pytest.approx(expected[1])
    assert drawn[1].images[0].get_clim() == (-1.0, 1.0)
    assert drawn[2].images[0].get_clim() == (0.0, 1.0)
    assert drawn[0].images[0].get_clim() == (0.0, pytest.approx(np.nanmax(shown(drawn[0]))))
    assert [label.get_text() for label in drawn[0].get_yticklabels()] == ["0", "2"]
    assert [label.get_text() for label in drawn[2].get_xticklabels()] == ["0", "1", "2"]
    assert {text.get_text() for text in drawn[1].texts} == {f"{h.cosine:.2f}" for x in diff.layers for h in x.heads}


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 2), (48, 32), (3, 128)])
def test_any_number_of_layers_and_heads(layers: int, heads: int) -> None:
    figure = draw_heatmap(grid(*[heads] * layers), title="t")
    wide, high = figure.get_size_inches()
    assert 5 <= wide <= 32
    assert 2 <= high <= 12
    for axis in panels(figure):
        assert shown(axis).shape == (layers, heads)
        assert len(axis.get_xticks()) == (heads if heads <= 48 else 43)
    left = panels(figure)[0]
    assert len(left.get_yticks()) == layers
    assert bool(left.texts) == (heads <= 2)  # numbers only where they fit


def test_what_is_infinite_lies_beyond_the_end_of_the_colours() -> None:
    one = FastWeights({"layers.0.recurrent": torch.eye(2)[None, None], "layers.1.recurrent": torch.eye(2)[None, None]})
    left = one.merged(
        {"layers.1.recurrent": torch.zeros(1, 1, 2, 2), "layers.0.recurrent": one["layers.0.recurrent"] / 4}
    )
    axis = panels(draw_heatmap(compare(one, left), title="t"))[0]
    assert axis.images[0].get_clim() == (0.0, 2.0)  # 3 is beyond it as well
    assert shown(axis).tolist() == [[3.0], [3.0]]
    assert [text.get_text() for text in axis.texts] == ["3.00", "∞"]
    assert axis.images[0].colorbar is not None
    assert axis.images[0].colorbar.extend == "max"


def test_nothing_changed_is_drawn_too() -> None:
    one = FastWeights({"layers.0.recurrent": torch.eye(2)[None, None]})
    axis = panels(draw_heatmap(compare(one, one), title="t"))[0]
    assert axis.images[0].get_clim() == (0.0, 1.0)
    assert shown(axis).tolist() == [[0.0]]


def test_a_png_with_the_callers_words(tmp_path: Path) -> None:
    target = tmp_path / "heat map.png"
    target.write_bytes(b"an earlier one")
    plot_heatmap(grid(2), target, title="thread $HOME_1$ ^{日}", legend="a: 1f\nb: 2e \x1b \U0001f4a4")
    with Image.open(target) as image:
        assert image.format == "PNG"
        assert image.size[0] > 500
    assert [path.name for path in tmp_path.iterdir()] == ["heat map.png"]


def test_title_and_legend_are_shown_as_they_are() -> None:
    figure = draw_heatmap(grid(1), title="$x", legend="a\nb 日")
    assert figure.get_suptitle() == "$x"
    assert figure.get_supxlabel() == "a\nb \N{REPLACEMENT CHARACTER}"
    assert draw_heatmap(grid(1), title="t").get_supxlabel() == ""


@pytest.mark.parametrize("where", ["missing/map.png", "file/map.png", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    target = tmp_path / where
    with pytest.raises(InputError, match=r"cannot be written to .*; name a file in a folder that exists") as caught:
        plot_heatmap(grid(1), target, title="t")
    assert str(target) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]  # and nothing half done


def test_states_without_fast_weights_give_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        plot_heatmap(compare(FastWeights(), FastWeights()), tmp_path / "map.png", title="t")
    assert not list(tmp_path.iterdir())
