"""The table that the tool reads."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from agentsleep.chat import ToolCall
from agentsleep.demo.table import RotaTable
from agentsleep.errors import ToolFailed
from agentsleep.memory import Toolbox
from agentsleep.tasks import rota


def episode(seed: int) -> rota.Episode:
    return rota.sample_episode(np.random.default_rng(seed))


def test_it_is_a_real_table(tmp_path) -> None:
    first = episode(1)
    RotaTable(tmp_path / "rota.db", first)
    with closing(sqlite3.connect(tmp_path / "rota.db")) as database:
        rows = database.execute("SELECT person, hands_over_to FROM rota ORDER BY person").fetchall()
    assert rows == sorted((person, first.successor(person)) for person in first.cycle)


def test_a_table_of_an_earlier_demonstration_is_filled_anew(tmp_path) -> None:
    RotaTable(tmp_path / "rota.db", episode(1))
    second = episode(2)
    table = RotaTable(tmp_path / "rota.db", second)
    for person in second.cycle:
        assert table.read(person) == rota.fact(person, second.successor(person))
    gone = next(name for name in episode(1).cycle if name not in second.cycle)
    with pytest.raises(LookupError, match=gone):
        table.read(gone)


def test_the_tool_reads_the_file_and_nothing_else(tmp_path) -> None:
    made = episode(1)
    table = RotaTable(tmp_path / "rota.db", made)
    person = made.cycle[0]
    with closing(sqlite3.connect(tmp_path / "rota.db")) as database, database:
        database.execute("UPDATE rota SET hands_over_to = 'nobody' WHERE person = ?", (person,))
    tools = Toolbox([table.look_up])
    assert tools.schemas == [rota.TOOL_SCHEMA]
    assert tools.run(ToolCall("look_up", {"person": person})) == f"{person} hands over to nobody ."
    assert table.asked == [person]


def test_a_stranger_is_the_tools_error_and_is_noted(tmp_path) -> None:
    table = RotaTable(tmp_path / "rota.db", episode(1))
    with pytest.raises(ToolFailed, match="'hal' is not on the rota"):
        Toolbox([table.look_up]).run(ToolCall("look_up", {"person": "hal"}))
    assert table.asked == ["hal"]
