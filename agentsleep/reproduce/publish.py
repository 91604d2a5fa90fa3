"""A document as the docs show it: its Markdown and its picture, written beside it."""

from __future__ import annotations

import os
from pathlib import Path

from agentsleep.errors import InputError
from agentsleep.reproduce import document
from agentsleep.reproduce.markdown import render
from agentsleep.reproduce.pictures import draw
from agentsleep.reproduce.plan import Table


def publish(table: Table, out: Path) -> list[Path]:
    """Writes TABLE.md and TABLE.png from TABLE.json; returns the three files.

    Raises:
        InputError: there is no TABLE.json.
    """
    source = out / f"{table.name}.json"
    found = document.read(source)
    if found is None or not found["runs"]:
        raise InputError(f"nothing is measured yet: no runs in {source}; use 'agentsleep reproduce {table.name}'")
    page, picture = out / f"{table.name}.md", out / f"{table.name}.png"
    part = page.with_name(f"{page.name}.part")
    part.write_text(render(table, found), encoding="utf-8")
    os.replace(part, page)
    part = picture.with_name(f"{picture.name}.part")
    draw(table, found).savefig(part, format="png", dpi=110)
    os.replace(part, picture)
    return [source, page, picture]
