"""How many passes a session's sleep makes: a number, or as many as its probes ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from agentsleep.backends import LiveWindow
from agentsleep.chat import ChatFormat
from agentsleep.errors import SettingsError
from agentsleep.state import FastWeights


@dataclass(frozen=True)
class Probing:
    """Passes are found, see :func:`agentsleep.auto.sleep_until`.

    probes: tokens of each question as a fresh window would read them: what is pinned, the question, the prompt.
    """

    probes: tuple[list[int], ...]
    max_passes: int


Depth: TypeAlias = int | Probing


class Consolidated(NamedTuple):
    """What a window leaves, the passes that were made over it, and the tokens that probes have read."""

    state: FastWeights
    passes: int
    probe_tokens: int


def consolidate(window: LiveWindow, depth: Depth, upto: int | None = None) -> Consolidated:
    """Light sleep on a window, or on its first ``upto`` tokens; it stays as it is."""
    if isinstance(depth, int):
        return Consolidated(window.sleep(depth, upto), depth, 0)
    return Consolidated(*window.sleep_until(depth.probes, depth.max_passes, upto))


def questions(chat: ChatFormat, probes: Sequence[str], window: int) -> tuple[list[int], ...]:
    """Probes as ``ask`` would read them, with the prompt of the answer, but for what is pinned.

    Raises:
        SettingsError: a probe takes more than half of the window, so that it might not fit behind what is pinned.
        InputError: a probe that has no UTF-8 form.
    """
    rendered = []
    for probe in probes:
        ids = [*chat.message("user", probe), *chat.prompt()]
        if len(ids) > window // 2:
            raise SettingsError(
                f"the probe {probe!r:.80} takes {len(ids)} tokens, more than half of the window of {window}; shorten it"
            )
        rendered.append(ids)
    return tuple(rendered)
