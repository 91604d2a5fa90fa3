"""The open window of a session and its place in the log: heard, written, slept on, stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentsleep.archive import Event, NewEvent, Scope, SessionRecord, Snapshot
from agentsleep.backends import LiveWindow
from agentsleep.chat import Role
from agentsleep.errors import MessageTooLong, SleepFailed
from agentsleep.memory.decoding import Sampling, Scratch, feed, write
from agentsleep.memory.lineage import deep, environment, slept_windows
from agentsleep.memory.pins import Pins
from agentsleep.state import FastWeights
from agentsleep.tokens import decode_text

if TYPE_CHECKING:
    from agentsleep.memory.memory import SleepMemory


class OpenWindow:
    """Built from the archive: the head's state, then the log behind it.

    The log is the truth, and this is what follows from it. Whoever sees a method break off throws the object away and
    builds another one; nothing is mended in place.

    Raises:
        ArchiveError, SnapshotDamaged: what it is built from cannot be read.
        SleepFailed, ArchiveFull: the log says more than a window holds, and the sleep that this takes was not possible.
    """

    def __init__(self, memory: SleepMemory, session_id: str, scope: Scope) -> None:
        self._backend, self._chat = memory.backend, memory.chat
        self._archive, self._policy = memory.archive, memory.policy
        self._id = session_id
        record = self._archive.session(session_id)
        self._events, self._logged = record.events, record.tokens
        self._pending: list[int] = []  # of a turn that is being written: read, but not yet in the log
        self._turn_logged = False  # whether a sleep has put the beginning of that turn into the log
        self.head: Snapshot | None = None
        state, mark = FastWeights(), dict[str, Any](stop=0, next_seq=0, pins_seq=None, number=0)
        if record.head is not None:
            state, mark = self._read_head(record, scope)
        self.number: int = mark["number"]  # snapshots that the head descends from, itself included
        self._start: int = mark["stop"]  # tokens of the log before this window
        events = self._archive.events(session_id, mark["next_seq"])
        self._pins_seq: int | None = max((e.seq for e in events if "pins" in e.data), default=mark["pins_seq"])
        self.pins = self._read_pins()
        self.pinned = self.pins.render(self._chat, self._backend.config)
        self._heard = [event for event in events if event.token_ids]  # those that end in this window, or later
        self._enter(state, [e.token_ids[max(0, self._start - e.position) :] for e in self._heard])
        if mark.get("open_turn") and not self._heard:
            self._close_turn()

    @property
    def tokens(self) -> int:
        """Tokens ever said in the session."""
        return self._logged + len(self._pending)

    @property
    def passes(self) -> int:
        """N of a sleep for which the caller names none."""
        return self._policy.passes or self._backend.config.sleep_passes

    @property
    def empty(self) -> int:
        """Tokens that a fresh window holds besides what is pinned."""
        return self._backend.config.sleep_window - len(self.pinned)

    # Building it

    def _read_head(self, record: SessionRecord, scope: Scope) -> tuple[FastWeights, dict[str, Any]]:
        """The state that the window opens with, and the mark of the sleep that left it."""
        assert record.head is not None
        self.head = self._archive.snapshot(record.head, tenant=scope.tenant, user=scope.user)
        state = FastWeights.load(self._archive.load_state(record.head, tenant=scope.tenant, user=scope.user))
        return state, dict(self._event(self.head.span[1] - 1).data)

    def _read_pins(self) -> Pins:
        return Pins() if self._pins_seq is None else Pins.of(self._event(self._pins_seq))

    def _event(self, seq: int) -> Event:
        return self._archive.events(self._id, seq, seq + 1)[0]

    def _enter(self, state: FastWeights, parts: Sequence[Sequence[int]]) -> None:
        """Reads the parts behind what is pinned: those that fit in one forward, the others as if just heard."""
        together, later = list(self.pinned), list(parts)
        while later and len(together) + len(later[0]) <= self._backend.config.sleep_window:
            together += later.pop(0)
        self.window = LiveWindow(self._backend, state)
        self.window.read(together)
        for part in later:
            feed(self, part, self.empty)

    def _close_turn(self) -> None:
        """Ends an assistant's turn that broke off behind a sleep."""
        ids: list[int] = []
        seq = self._events - 2  # a part of the turn, then the mark of the sleep that fell into it; and so on backwards
        while seq >= 0 and (part := self._event(seq)).data.get("open"):
            ids, seq = [*part.token_ids, *ids], seq - 2
        self._turn_logged = True
        self.end_turn(ids[len(self._chat.prompt()) :])

    # Hearing and writing

    def render(self, role: Role, text: str) -> list[int]:
        """The tokens of a message.

        Raises:
            EmptyMessage, InputError: as :meth:`agentsleep.chat.Chat.message`.
            MessageTooLong: it would fill more windows than the policy allows.
        """
        ids = self._chat.message(role, text)
        most = self._policy.max_windows * self.empty
        if len(ids) > most:
            raise MessageTooLong(
                f"a {role} message of {len(ids)} tokens would fill more than {self._policy.max_windows} windows "
                f"({most} tokens); shorten it, or raise SleepPolicy(max_windows=...)"
            )
        return ids

    def hear(self, role: Role, text: str, ids: Sequence[int]) -> Event:
        """Logs a message, then reads it."""
        event = self._append(NewEvent(kind="tokens", role=role, token_ids=tuple(ids), text=text))
        self._heard.append(event)
        feed(self, ids, self.empty)
        return event

    def pin(self, pins: Pins) -> None:
        """Logs other pins. They hold from the next OpenWindow on, which re-reads this window under its new head."""
        self._append(NewEvent(kind="tokens", role="system", text=pins.system, data=pins.event_data()))

    def due(self, more: int = 0) -> bool:
        """Whether the policy wants a sleep, now or before a message of ``more`` tokens."""
        tokens, messages = len(self.window) + more, len(self._heard) + (more > 0)
        return self.content > 0 and self._policy.due(
            tokens=tokens, messages=messages, window=self._backend.config.sleep_window
        )

    def sleep_if_due(self, more: int = 0) -> None:
        """Sleeps if the policy says so."""
        if self.due(more):
            self.sleep("policy", self.passes)

    def aside(self) -> Scratch:
        """A fork in memory that leaves no trace."""
        return Scratch(self.window.fork(), self.pinned, self.passes)

    def write(self, sampling: Sampling) -> Any:
        """The assistant's turn, token by token; :meth:`end_turn` puts it into the log."""
        self._pending, self._turn_logged = [], False
        return write(self, self._chat.prompt(), self._chat.end, sampling, self.empty, self._pending.extend)

    def end_turn(self, written: Sequence[int], *, broken: bool = False) -> None:
        """Logs what was written of a turn, ended where it was cut.

        Args:
            broken: something broke off; this object is good for nothing but this last word.
        """
