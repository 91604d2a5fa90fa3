"""Which messages of a list a memory has heard already.

LangChain hands over a whole list of messages at every call. A memory that has heard some of them reads the others
only. What it has heard are the logs of one or several *lines* (a session, and what branched off it); the list
continues one of them. Where it does is found by the handle of the agent's state, then by the messages' ids, then by
what they say:

* The list has the whole log at its head: what follows is new.
* The head of the log is missing from the list, since it is consolidated: the list fits the log's end.
* The list parts from the log at some message (it was edited, or the thread was rewound or forked): what was said before
  stands, the rest of the list is new, and a branch of the line reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

from langchain_agentsleep.errors import AmbiguousHistory
from langchain_agentsleep.messages import Listed, Logged


@dataclass(frozen=True)
class Line:
    """What a session has heard.

    name: for error messages.  said: its messages.  slept: tokens of its log that are consolidated.
    """

    name: str
    said: Sequence[Logged]
    slept: int = 0

    @cached_property
    def places(self) -> dict[str, int]:
        """Messages by their ids."""
        return {one.id: place for place, one in enumerate(self.said) if one.id is not None}

    @cached_property
    def consolidated(self) -> int:
        """How many messages, from the first on, were slept on to their last token."""
        return sum(one.end <= self.slept for one in self.said)

    def digest(self, count: int) -> bytes:
        """Equal for two lines whose first ``count`` messages say the same."""
        said = blake2b()
        for one in self.said[:count]:
            said.update((one.key or f"?{self.name}{one.start}").encode())
        return said.digest()


@dataclass(frozen=True)
class Fit:
    """Where a list continues a line.

    line: its index; None: it continues none, and is read from the beginning.
    start: the message of the line that the list begins with.
    length: how many of the list's messages are in the line, from there.
    """

    line: int | None
    start: int = 0
    length: int = 0

    @property
    def stands(self) -> int:
        """How many of the line's messages were said before the list's new ones."""
        return self.start + self.length


NOTHING = Fit(None)


def fit(lines: Sequence[Line], messages: Sequence[Listed], handle: tuple[int, int] | None = None) -> Fit:
    """Where the list continues one of the lines. Of two lines that fit alike, the later one is taken.

    Args:
        handle: the line that the agent's state names, and how many messages it had when the state was stored.

    Raises:
        AmbiguousHistory: the list fits in more than one place.
    """
    if handle is not None:
        found = _by_ids(lines, messages, [handle[0]])
        return _by_handle(lines[handle[0]], messages, *handle) if found is None else found
    found = _by_ids(lines, messages, range(len(lines)))
    return _by_content(lines, messages) if found is None else found


def to_be_asked(line: Line, found: Fit, messages: Sequence[Listed]) -> Fit:
    """The fit of a list that is to be answered, and parts from the line: a message at its end that was no question when
    the line heard it, since another one followed, does not stand. It is read anew, now as a question."""
    if not found.length or found.length < len(messages):
        return found
    stands = line.said[found.stands - 1].asked or not messages[-1].asks
    return found if stands else replace(found, length=found.length - 1)


def _run(line: Line, start: int, messages: Sequence[Listed], same: Callable[[Logged, Listed], bool]) -> int:
    """How many messages are those of the line from ``start`` on."""
    length = 0
    for heard, said in zip(line.said[start:], messages, strict=False):
        if not same(heard, said):
            break
        length += 1
    return length


def _says_the_same(heard: Logged, said: Listed) -> bool:
    return heard.id is not None and heard.id == said.id if heard.key is None else heard.key == said.key


def _is_the_same(heard: Logged, said: Listed) -> bool:
    other = heard.id is not None and said.id is not None and heard.id != said.id
    return not other and _says_the_same(heard, said)


def _by_ids(lines: Sequence[Line], messages: Sequence[Listed], chosen: Sequence[int]) -> Fit | None:
    """By the first message whose id a line knows; None if there is none. A list that has something else before it, in
    place of what is not consolidated, was written anew."""
    best: Fit | None = None
    for number in chosen:
        line = lines[number]
        known = next(((i, line.places[one.id]) for i, one in enumerate(messages) if one.id in line.places), None)
        if known is None:
            continue
        start = known[1] - known[0]
        length = _run(line, start, messages, _says_the_same) if start >= 0 else 0
        # The head of the log is gone from the list, and of what is left the first message was edited.
        edited = start > 0 and (known[0] == 0 or start <= line.consolidated)
        found = Fit(number, start, length) if length or edited else NOTHING
        if best is None or _better(lines, found, best):
            best = found
    return best


def _better(lines: Sequence[Line], one: Fit, other: Fit) -> bool:
    """More messages, then a line that goes on from there without a branch, then the later line."""
    return _worth(lines, one) >= _worth(lines, other)


def _worth(lines: Sequence[Line], found: Fit) -> tuple[int, bool, bool]:
    known = found.line is not None
    return found.length, known, known and found.stands == len(lines[found.line or 0].said)


def _by_handle(line: Line, messages: Sequence[Listed], number: int, count: int) -> Fit:
    """The list belongs behind the first ``count`` messages, or begins among them, or was edited there. Only what is
    consolidated is taken to be missing from the list where that is not plain."""
    count = min(count, len(line.said))
    found = [Fit(number, start, _run(line, start, messages, _is_the_same)) for start in range(count)]
    whole = next((one for one in found if one.length and one.stands >= count), None)
    if whole is not None:
        return whole
    length = _run(line, 0, messages, _says_the_same)
    if length >= max(2, count):
        return Fit(number, 0, length)  # all of it, with other ids
    behind = Fit(number, count, 0)
    partly = [one for one in found[: line.consolidated + 1] if one.length]
    if not partly:
        return behind
    longest = max(one.length for one in partly)
    places = [one for one in partly if one.length == longest] + ([behind] if count <= line.consolidated else [])
    if len(places) > 1:
        raise _ambiguous([line] * len(places), places)
    return places[0]


def _by_content(lines: Sequence[Line], messages: Sequence[Listed]) -> Fit:
    whole = [
        Fit(number, 0, len(line.said))
        for number, line in enumerate(lines)
        if _run(line, 0, messages, _says_the_same) == len(line.said)
    ]
    longest = max(whole, key=lambda one: (one.length, one.line), default=None)
    if longest is not None and longest.length:
        return longest
    best: dict[bytes, Fit] = {}
    for found in _partly(lines, messages):
        most = max((one.length for one in best.values()), default=0)
        if found.length < most:
            continue
        if found.length > most:
            best = {}
        line = lines[found.line or 0]
        digest = line.digest(found.stands)
        if digest not in best or _better(lines, found, best[digest]):
            best[digest] = found
    if len(best) > 1:
        raise _ambiguous([lines[one.line or 0] for one in best.values()], list(best.values()))
    return next(iter(best.values()), longest or NOTHING)


def _partly(lines: Sequence[Line], messages: Sequence[Listed]) -> Iterator[Fit]:
    for number, line in enumerate(lines):
        for start in range(line.consolidated + 1):
            length = _run(line, start, messages, _says_the_same)
            if length:
                yield Fit(number, start, length)


def _ambiguous(lines: Sequence[Line], fits: Sequence[Fit]) -> AmbiguousHistory:
    places = []
    for line, one in zip(lines, fits, strict=True):
        where = f"message {one.start}" if one.length else f"the end, behind message {one.start - 1}"
        seq = line.said[min(one.start, len(line.said) - 1)].start
        places.append(f"at {where} of {line.name} (event {seq})")
    return AmbiguousHistory(
        f"the list of messages fits the memory in {len(places)} places: {', and '.join(places)}; what it says is not "
        "enough to tell them apart: keep the messages' ids, or the state that SleepMiddleware stores with them"
    )
