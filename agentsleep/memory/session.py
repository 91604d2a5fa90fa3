"""One agent thread: read awake, slept on by policy, archived, alive again after a restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from agentsleep.archive import Event, NewEvent, SessionLock, SessionRecord, Snapshot
from agentsleep.backends import LiveWindow
from agentsleep.chat import Role, ToolCall
from agentsleep.errors import InputError, MessageTooLong, SessionBusy, SettingsError, SleepFailed
from agentsleep.memory.decoding import Sampling, Scratch, feed, write
from agentsleep.memory.lineage import deep, environment, replay, slept_windows
from agentsleep.sleep import check_depth
from agentsleep.state import FastWeights
from agentsleep.tokens import decode_text

if TYPE_CHECKING:
    from agentsleep.memory.memory import SleepMemory


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said.

    text: empty where it called a tool instead (``call``).
    snapshot: id of the newest archived state that the answer rests on; None before the first sleep.
    tokens: how many tokens it wrote.  finished: False when ``max_new_tokens`` cut it off.
    warning: what was wrong with a tool call that could not be read.
    """

    text: str
    snapshot: str | None
    tokens: int
    finished: bool = True
    call: ToolCall | None = None
    warning: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Stats:
    """A session in numbers. ``window_tokens`` counts what the open window holds, pinned text included; ``tokens`` what
    was ever said in the session; ``state_bytes`` and ``norm`` describe the fast weights."""

    window_tokens: int
    window_capacity: int
    pinned_tokens: int
    tokens: int
    snapshots: int
    state_bytes: int
    norm: float


class Session:
    """A thread of one user. Made by :meth:`SleepMemory.session`; a context manager; one writer at a time.

    What :meth:`add` has returned for, and what a stream has yielded to its end, is on disk.
    """

    def __init__(
        self,
        memory: SleepMemory,
        record: SessionRecord,
        *,
        system: str | None,
        tools: Sequence[Mapping[str, Any]],
        timeout: float,
    ) -> None:
        self._memory, self._backend, self._chat = memory, memory.backend, memory.chat
        self._archive, self._policy = memory.archive, memory.policy
        self.id, self.scope = record.id, record.scope
        self._lock = SessionLock(self._archive, record.id, timeout)
        self._turn = threading.RLock()
        self._lock.acquire()
        try:
            self._load()
            if system is not None or list(tools) != self._pins["tools"]:
                self.pin(system=system, tools=tools)
        except BaseException:
            self._lock.release()
            raise

    # What it is

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets another writer have the session. Nothing is lost: the open window is read again from the log."""
        self._lock.release()

    @property
    def head(self) -> Snapshot | None:
        """The newest snapshot."""
        return self._head

    @property
    def state(self) -> FastWeights:
        """The fast weights that the open window started from."""
        return self.window.opened

    @property
    def window_tokens(self) -> int:
        """Tokens in the open window, those pinned at its head included."""
        return len(self.window)

    @property
    def tokens(self) -> int:
        """Tokens ever said in this session."""
        return self._tokens + len(self._pending)

    def history(self) -> list[Snapshot]:
        """All snapshots that the head descends from, oldest first, itself included."""
        return self._archive.snapshots(self.id)

    def messages(self) -> list[Event]:
        """What was said, as the log has it, oldest first."""
        return [e for e in self._archive.events(self.id) if e.kind == "tokens" and e.token_ids]

    def stats(self) -> Stats:
        """The session in numbers."""
        with self._using():
            return Stats(
                window_tokens=len(self.window),
                window_capacity=self._backend.config.sleep_window,
                pinned_tokens=len(self._pinned),
                tokens=self.tokens,
                snapshots=len(self.history()),
                state_bytes=self.state.nbytes,
                norm=self.state.norm(),
            )

    # What it hears and says

    def pin(self, *, system: str | None = None, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        """Sets what is read again at the head of every window; the open window is read again under the new head.

        Args:
            system: the system message; None keeps the present one, an empty string removes it.
            tools: JSON schemas of the tools on offer.

        Raises:
            MessageTooLong: it would take more than half of a window.
        """
        with self._using():  # which first takes up pins that were set a moment ago
            pins = {"system": self._pins["system"] if system is None else system or None, "tools": list(tools)}
            if pins == self._pins:
                return
            pinned = self._render_pins(pins)
            window = self._backend.config.sleep_window
            if len(pinned) > window // 2:
                raise MessageTooLong(
                    f"system message and tools take {len(pinned)} tokens, more than half of the window of {window}; "
                    "shorten them, or use a model with a larger window"
                )
            self._append(NewEvent(kind="tokens", role="system", text=pins["system"], data={"pins": pins}))
            self._stale = True  # the next use reads the open window again, under its new head

    def add(self, role: Role, text: str) -> Event:
        """Reads a message. When this returns, the message is on disk.

        Raises:
            EmptyMessage: no text.  InputError: an unknown role.
            MessageTooLong: it would fill more than ``policy.max_windows`` windows.
        """
        ids = self._render(role, text)
        with self._using():
            event = self._append(NewEvent(kind="tokens", role=role, token_ids=tuple(ids), text=text))
            self._open_events.append(event)
            self._hear(ids)
        return event

    def ask(
        self,
        text: str,
        *,
        remember: bool = True,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Answer:
        """Asks the user's question and returns the answer.

        Args:
            remember: False asks a fork in memory, which leaves no trace in the session.

        Raises:
            As :meth:`add` and :meth:`generate`.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        if remember:
            self.add("user", text)
            return self._answer(list(self._write(sampling)))
        ids = self._render("user", text)
        with self._using():
            aside = Scratch(self.window.fork(), self._pinned, self._passes)
            feed(aside, ids, self._empty)
            return self._answer(list(write(aside, self._chat.prompt(), self._chat.end, sampling, self._empty)))

    @overload
    def generate(self, *, stream: Literal[True], max_new_tokens: int = ..., temperature: float = ..., top_p: float = ...,
                 seed: int | None = ...) -> Iterator[str]: ...
    @overload
    def generate(self, *, stream: Literal[False] = ..., max_new_tokens: int = ..., temperature: float = ...,
                 top_p: float = ..., seed: int | None = ...) -> Answer: ...

    def generate(
        self,
        *,
        stream: bool = False,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Answer | Iterator[str]:
        """Writes the assistant's next turn.

        Args:
            stream: True returns an iterator of text as it is written; the turn is on disk when it ends. A stream that
                is closed early keeps what it has written.
            temperature: 0 is greedy.  top_p: the probability mass that is sampled from.  seed: makes sampling repeat.

        Raises:
            SettingsError: a setting out of its range.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        if stream:
            return self._stream(sampling)
        return self._answer(list(self._write(sampling)))

    # How it sleeps

    def sleep(
        self,
        *,
        deep: bool = False,
        passes: int | None = None,
        rounds: int | None = None,
        windows: int | None = None,
    ) -> Snapshot | None:
        """Light sleep on the open window; with ``deep``, archived windows are then read again from the log.

        Args:
            passes: N of every visit; None takes the policy's, else the model's.
            rounds: how often a deep sleep reads every archived window; None takes the model's setting.
            windows: how many archived windows a deep sleep reads, the newest; None means all.

        Returns:
            The new snapshot; None where there was nothing to sleep on.

        Raises:
            SettingsError: passes, rounds or windows below 1.
            SleepFailed: the result was not usable; the old state stays in place.
        """
        passes = self._passes if passes is None else passes
        rounds = self._backend.config.sleep_rounds if rounds is None else rounds
        check_depth(passes, rounds)
        if windows is not None and windows < 1:
            raise SettingsError(f"windows is {windows}; a deep sleep reads at least 1")
        with self._using():
            light = self._consolidate("asked", passes)
            if not deep:
                return light
            return self._dream(passes, rounds, windows) or light

    def replay(self) -> FastWeights:
        """Computes the head's state again from the event log: bit-equal in an equal environment."""
        return replay(self._backend, self._archive.events(self.id))

    # The open window, which a Reader holds

    @property
    def window(self) -> LiveWindow:
        """The open window."""
        if self._stale:
            with self._turn:
                self._load()
        return self._window

    def make_room(self) -> None:
        """Sleeps because the window is full."""
        self._consolidate("overflow", self._passes)

    @property
    def _passes(self) -> int:
        return self._policy.passes or self._backend.config.sleep_passes

    @property
    def _empty(self) -> int:
        return self._backend.config.sleep_window - len(self._pinned)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """One caller at a time. Whatever breaks off inside leaves the log as the truth, to be read again."""
        with self._turn:
            if not self._lock.held:
                raise SessionBusy(f"session {self.scope} is closed; open it again with memory.session(...)")
            if self._stale:
                self._load()
            try:
                yield
            except BaseException:
                self._stale = True
                raise

    def _load(self) -> None:
        """Builds the open window from the archive: the head's state, then the log behind it in one forward."""
        record = self._archive.session(self.id)
        self._pending: list[int] = []
        self._tokens, self._events = record.tokens, record.events
        self._head: Snapshot | None = None
        state, mark = FastWeights(), dict[str, Any](stop=0, next_seq=0, pins_seq=None)
        if record.head is not None:
            who = {"tenant": self.scope.tenant, "user": self.scope.user}
            self._head = self._archive.snapshot(record.head, **who)
            state = FastWeights.load(self._archive.load_state(record.head, **who))
            mark = dict(self._archive.events(self.id, self._head.span[1] - 1, self._head.span[1])[0].data)
        events = self._archive.events(self.id, mark["next_seq"])
        self._pins_seq: int | None = mark["pins_seq"]
        self._pins: dict[str, Any] = {"system": None, "tools": []}
        for event in events:
            if "pins" in event.data:
                self._pins_seq = event.seq
        if self._pins_seq is not None:
            self._pins = cast(dict[str, Any], self._archive.events(self.id, self._pins_seq, self._pins_seq + 1)[0].data["pins"])
        self._pinned = self._render_pins(self._pins)
        self._open_events = [e for e in events if e.token_ids]
        self._start = mark["stop"]
        content = [t for e in self._open_events for t in e.token_ids[max(0, self._start - e.position) :]]
        self._window = LiveWindow(self._backend, state)
        first = content[: self._empty]
        self._window.read([*self._pinned, *first])
        self._stale = False
        if rest := content[len(first) :]:
            feed(self, rest, 0)
        if mark.get("open_turn") and not self._open_events:
            self._close_turn()

    def _close_turn(self) -> None:
        """Ends an assistant's turn that a crash cut off."""
        end = NewEvent(kind="tokens", role="assistant", token_ids=(self._chat.end,), data={"cut": True})
        self._open_events.append(self._append(end))
        feed(self, [self._chat.end], self._empty)

    def _render(self, role: Role, text: str) -> list[int]:
        ids = self._chat.message(role, text)
        most = self._policy.max_windows * self._empty
        if len(ids) > most:
            raise MessageTooLong(
                f"a {role} message of {len(ids)} tokens would fill more than {self._policy.max_windows} windows "
                f"({most} tokens); shorten it, or raise SleepPolicy(max_windows=...)"
            )
        return ids

    def _render_pins(self, pins: Mapping[str, Any]) -> list[int]:
        kept = self._backend.config.sleep_pin
        system = self._chat.message("system", pins["system"]) if pins["system"] and "system" in kept else []
        return system + (self._chat.tools(pins["tools"]) if "tools" in kept else [])

    def _append(self, event: NewEvent) -> Event:
        stored = self._archive.append(self.id, [event])[0]
        self._events, self._tokens = stored.seq + 1, stored.position + len(stored.token_ids)
        return stored

    def _hear(self, ids: Sequence[int]) -> None:
        feed(self, ids, self._empty)
        messages = len(self._open_events)
        window = self._backend.config.sleep_window
        if self._policy.due(tokens=len(self._window), messages=messages, window=window):
            self._consolidate("policy", self._passes)

    def _write(self, sampling: Sampling) -> Iterator[int]:
        """The assistant's turn, token by token; it is logged at its end, and wherever a sleep falls into it."""
        with self._using():
            self._pending = []
            written: list[int] = []
            try:
                turn = write(self, self._chat.prompt(), self._chat.end, sampling, self._empty, self._pending_more)
                for token in turn:
                    written.append(token)
                    yield token
            finally:
                finished = bool(written) and written[-1] == self._chat.end
                ending = () if finished else (self._chat.end,)
                text = decode_text(self._chat.tokenizer, written[: len(written) - finished]).removeprefix(" ")
                data = {"generated": True} | ({} if finished else {"cut": True})
                ids = (*self._pending, *ending)
                self._pending = []
                if ids:
                    event = NewEvent(kind="tokens", role="assistant", token_ids=ids, text=text, data=data)
                    self._open_events.append(self._append(event))
                if ending:
                    self._stale = True
            if not self._stale:
                self._hear(())

    def _pending_more(self, ids: Sequence[int]) -> None:
        self._pending += ids

    def _stream(self, sampling: Sampling) -> Iterator[str]:
        written: list[int] = []
        shown = ""
        for token in self._write(sampling):
            if token == self._chat.end:
                continue
            written.append(token)
            text = decode_text(self._chat.tokenizer, written).removeprefix(" ")
            if not text.endswith("\ufffd"):  # half of a character waits for its other bytes
                yield text[len(shown) :]
                shown = text

    def _answer(self, ids: list[int]) -> Answer:
        reply = self._chat.parse(ids)
        return Answer(
            text=reply.text,
            snapshot=self._head.id if self._head else None,
            tokens=len(ids),
            finished=bool(ids) and ids[-1] == self._chat.end,
            call=reply.call,
            warning=reply.warning,
        )

    # Sleep

    def _consolidate(self, reason: str, passes: int) -> Snapshot | None:
        """Light sleep: compute, store, move the head, and only then open the next window."""
        content = len(self._window) - len(self._pinned)
        if content <= 0:
            return None
        began = time.perf_counter()
        state = self._window.sleep(passes)
        events = []
        if self._pending:  # a turn that is still being written
            part = {"generated": True, "open": True}  # its end follows behind the mark
            events.append(NewEvent(kind="tokens", role="assistant", token_ids=tuple(self._pending), data=part))
        stop = self._start + content
        mark_seq = self._events + len(events)
        unread = [e.seq for e in self._open_events if e.position + len(e.token_ids) > stop]
        data = {
            "start": self._start,
            "stop": stop,
            "pinned": self._pinned,
            "pins_seq": self._pins_seq,
            "next_seq": unread[0] if unread else mark_seq + 1,
            "passes": passes,
            "reason": reason,
            "open_turn": bool(self._pending),
        }
        events.append(NewEvent(kind="sleep", data=data))
        snapshot = self._commit(state, events, passes, 1, reason, "light", time.perf_counter() - began, content)
        self._pending = []
        self._open_events = [e for e in self._open_events if e.seq in unread]
        self._start = stop
        self._open(state)
        return snapshot

    def _dream(self, passes: int, rounds: int, windows: int | None) -> Snapshot | None:
        """Deep sleep; the open window is empty."""
        archived = slept_windows(self._archive.events(self.id))
        if not archived:
            return None
        first = 0 if windows is None else max(0, len(archived) - windows)
        began = time.perf_counter()
        state = deep(self._backend, archived[first:], self._window.opened, passes, rounds)
        data = {
            "first": first,
            "windows": len(archived) - first,
            "passes": passes,
            "rounds": rounds,
            "stop": self._start,
            "pins_seq": self._pins_seq,
            "next_seq": self._events + 1,
        }
        read = rounds * sum(len(window.ids) for window in archived[first:])
        mark = [NewEvent(kind="deep_sleep", data=data)]
        snapshot = self._commit(state, mark, passes, rounds, "asked", "deep", time.perf_counter() - began, read)
        self._open(state)
        return snapshot

    def _commit(
        self,
        state: FastWeights,
        events: Sequence[NewEvent],
        passes: int,
        rounds: int,
        trigger: str,
        mode: str,
        seconds: float,
        tokens: int,
    ) -> Snapshot:
        before = self._window.opened
        if not state.is_finite():
            raise SleepFailed(f"a {mode} sleep of {passes} passes gave NaN or Inf; the state from before it stays")
        if state.norm() == 0:
            raise SleepFailed(f"a {mode} sleep of {passes} passes gave an empty state; the state from before it stays")
        change = max(state.only("recurrent").diff(before.only("recurrent")).values())
        self._head = self._archive.commit_snapshot(
            self.id,
            expected_head=self._head.id if self._head else None,
            state=state.save(),
            events=events,
            fingerprint=self._backend.fingerprint,
            passes=passes,
            rounds=rounds,
            trigger=trigger,
            mode=mode,
            environment=environment(),
            metrics={"ms": 1000 * seconds, "tokens": tokens, "norm": state.norm(), "largest_change": change},
            expected_events=self._events,
        )
        self._events, self._tokens = self._head.span[1], self._head.tokens
        return self._head

    def _open(self, state: FastWeights) -> None:
        self._window = LiveWindow(self._backend, state)
        self._window.read(self._pinned)
