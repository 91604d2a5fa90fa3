"""Thoughts in what a model wrote: text between markers, of which a prompt may have written the first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

_PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))  # Qwen3 and most others; Mistral's Magistral


class Split(NamedTuple):
    """thought: None for none.  closed: whether it came to its end."""

    thought: str | None
    text: str
    closed: bool


class Markers(NamedTuple):
    """What stands before and after a thought."""

    opened: str
    closed: str

    @classmethod
    def of(cls, template: str) -> Markers:
        """Those that a chat template names; ``<think>`` where it names none."""
        return cls(*next((pair for pair in _PAIRS if pair[1] in template or pair[0] in template), _PAIRS[0]))

    def split(self, prompt: str, text: str) -> Split:
        """A turn's thought and what follows it."""
        before, closed, after = text.partition(self.closed)
        begun = self._begun(prompt, text)
        if not closed and not begun:
            return Split(None, text, True)
        thought = before.lstrip().removeprefix(self.opened).strip() or None
        return Split(thought, after.lstrip(), bool(closed))

    def before(self, text: str) -> str:
        """The text, unless it might yet turn out to begin a thought."""
        begun = text.lstrip()
        return "" if begun and self.opened.startswith(begun) else text

    def behind(self, prompt: str, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int | None:
        """How many tokens reach to the end of the thought, which may lie inside the last of them; None for no
        thought."""
        if self.closed not in (text := decode(ids)):
            return len(ids) if self._begun(prompt, text) else None
        return bisect_left(range(len(ids)), True, key=lambda count: self.closed in decode(ids[:count]))

    def _begun(self, prompt: str, text: str) -> bool:
        return prompt.rstrip().endswith(self.opened) or text.lstrip().startswith(self.opened)
