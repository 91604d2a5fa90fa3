"""The three worlds that problems are about: things of five kinds in four places."""

from __future__ import annotations

from dataclasses import dataclass

KINDS, PLACES = 5, 4  # of every template


@dataclass(frozen=True)
class Template:
    """One world. ``everything`` names the things of all kinds together; no name holds " in ", " and " or " does "."""

    name: str
    kinds: tuple[str, ...]
    places: tuple[str, ...]
    everything: str


TEMPLATES: tuple[Template, ...] = (
    Template(
        "animals",
        ("adult otter", "adult badger", "adult heron", "adult lynx", "adult marmot"),
        ("Alder Hollow", "Birch Island", "Copper Gorge", "Misty Moor"),
        "adult animals",
    ),
    Template(
        "teachers",
        ("physics teacher", "music teacher", "history teacher", "drawing teacher", "sports teacher"),
        ("Elmgate School", "Harbour Academy", "Northfield College", "Sunhill Institute"),
        "teachers",
    ),
    Template(
        "films",
        ("silent comedy", "space opera", "nature documentary", "puppet film", "courtroom drama"),
        ("Amber Film Week", "Lakeside Film Days", "Old Mill Film Nights", "Polar Film Festival"),
        "films",
    ),
)
