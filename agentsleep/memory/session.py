"""One agent thread: read awake, slept on by policy, archived, alive again after a restart."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, overload
from weakref import WeakMethod

from agentsleep.archive import JSON, Event, SessionRecord, Snapshot
from agentsleep.backends import LiveWindow
from agentsleep.chat import Role, ToolCall
from agentsleep.errors import ArchiveError, InputError, SettingsError, SleepFailed
from agentsleep.gauge import saturation
from agentsleep.memory import caller
from agentsleep.memory.archived import Archived
from agentsleep.memory.decoding import Sampling, feed, write
from agentsleep.memory.depth import Probing
from agentsleep.memory.desk import Desk
from agentsleep.memory.shared import Shared
from agentsleep.memory.stream import Stream
from agentsleep.memory.turn import Turn
from agentsleep.memory.values import Answer, Position, SleepFinished, SleepListener, SleepStarted, Stats
from agentsleep.memory.window import OpenWindow
from agentsleep.policy import Passes
from agentsleep.sleep import check_depth
from agentsleep.state import FastWeights

_log = logging.getLogger(__name__)


class Session(Archived):
    """A thread of one user. Made by :meth:`SleepMemory.session`; a context manager; one writer at a time.

    What :meth:`add` has returned for, and what a stream has yielded to its end, is on disk. Threads may share it: they
    are served one after the other.
    """

    def __init__(
        self,
        shared: Shared,
        record: SessionRecord,
        *,
        system: str | None,
        tools: Sequence[Mapping[str, Any]] | None,
        timeout: float,
    ) -> None:
        self.on_sleep: SleepListener | None = None
        """Told before and after each sleep, in the thread that sleeps. An error of its own is logged, no more."""
        tell = WeakMethod(self._tell)  # weak: a session that nobody holds any more is to go at once
        shared = replace(shared, slept=lambda told: call(told) if (call := tell()) else None)
        super().__init__(shared, record, Desk(shared, record, timeout))
        self._backend, self._chat, self._policy = shared.backend, shared.chat, shared.policy
        try:
            self.pin(system=system, tools=tools)
        except BaseException:
            self.desk.close()
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
        self.desk.close()

    def park(self) -> None:
        """Lets other writers have the session until it is used next: a look at its window or its counts is a use too.
        The window stays at hand, and is read again if somebody has written in the meantime. That use waits for another
        writer as long as ``timeout`` says; where it gets SessionBusy, the session stays parked and can be used later.

        Raises:
            SessionBusy: a turn is being written.  SessionClosed: after :meth:`close`.
        """
        self.desk.park()

    def _tell(self, told: SleepStarted | SleepFinished) -> None:
        if self.on_sleep is None:
            return
        try:
            self.on_sleep(told)
        except Exception:
            _log.exception("on_sleep of the session of %s has failed", self.scope)

    @property
    def window(self) -> LiveWindow:
        """The open window."""
        return self.desk.look().window

    @property
    def head(self) -> Snapshot | None:
        """The newest snapshot."""
        return self.desk.look().head

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
        return self.desk.look().tokens

    def position(self) -> Position:
        """Where the session stands: the cheap part of :meth:`stats`."""
        reading = self.desk.look()
        return Position(
            head=reading.head.id if reading.head else None,
            events=reading.events,
            tokens=reading.tokens,
            slept_on=reading.slept_on,
            pinned_tokens=len(reading.pinned),
        )

    def stats(self) -> Stats:
        """The session in numbers. Writes nothing, and costs the same after any history."""
        reading = self.desk.look()
        state = reading.window.opened
        return Stats(
            window_tokens=len(reading.window),
            window_capacity=self._backend.settings.window,
            pinned_tokens=len(reading.pinned),
            tokens=reading.tokens,
            snapshots=reading.number,
            state_bytes=state.nbytes,
            norm=state.norm(),
            deep_sleeps=reading.tally.deep,
            passes=reading.tally.passes,
            saturation=saturation(state),
        )

    # What it hears and says

    def pin(self, *, system: str | None = None, tools: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Sets what is read again at the head of every window; the open window is read again under the new head.

        Args:
            system: the system message; None keeps the present one, an empty string removes it.
            tools: JSON schemas of the tools on offer; None keeps the present ones, an empty list removes them.

        Raises:
            MessageTooLong: it would take more than half of a window.
            SettingsError: a tool that is no schema.
        """
        with self.desk.using() as reading:
            pins = reading.pins.changed(system, tools)
            if pins != reading.pins:
                pins.render(self._chat, self._backend.settings)  # refused before it is logged
                reading.pin(pins)
                self.desk.renew()

    def add(
        self,
        role: Role,
        text: str,
        *,
        calls: Sequence[ToolCall] = (),
        asked: bool = False,
        metadata: Mapping[str, JSON] | None = None,
    ) -> Event:
        """Reads a message. When this returns, the message is on disk.

        Args:
            calls: the tool calls of an assistant's turn that this model did not write. Each is read as a turn of its
                own; ``text`` beside them is left out, and ``asked`` does nothing.
            asked: an answer is to follow at once: where the policy wants a sleep, it comes before the message, or after
                that answer, not in between.
            metadata: kept in the log's event, as ``data["metadata"]``.

        Returns:
            The event; of several, the last.

        Raises:
            EmptyMessage: no text.  InputError: an unknown role; calls of another role than "assistant".
            MessageTooLong: it would fill more than ``policy.max_windows`` windows.
            SleepFailed, ArchiveError: nothing is stored, but where the error says that the message is on disk: then a
                sleep that it made necessary failed.
        """
        data: dict[str, JSON] = {"metadata": dict(metadata)} if metadata else {}
        if calls:
            return self._speak(role, text, calls, data)
        with self.desk.using() as reading:
            ids = reading.render(role, text)
            if asked:
                reading.sleep_if_due(len(ids))
                data["asked"] = True
            event = reading.log(role, text, ids, **data)
            with _kept(event):
                reading.hear(ids)
                if not asked:
                    reading.sleep_if_due()
        return event

    def _speak(self, role: Role, text: str, calls: Sequence[ToolCall], data: Mapping[str, JSON]) -> Event:
        if role != "assistant":
            raise InputError(
                f"a {role} message cannot call tools ({', '.join(call.name for call in calls)}); drop calls"
            )
        with self.desk.using() as reading:
            reading.speak(text, calls, **data)
            said = reading.turn_event
            assert said is not None
            event = self._archive.events(self.id, said, said + 1)[0]
            with _kept(event):
                reading.sleep_if_due()
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
        **options: Any,
    ) -> Answer:
        """Asks the user's question and returns the answer. Where the policy wants a sleep, it comes before the question
        or after the answer, not in between.

        Args:
            remember: False asks a fork in memory, which leaves no trace in the session.
            max_new_tokens, temperature, top_p, seed, options: how the answer is written, as in :meth:`generate`.

        Raises:
            As :meth:`add` and :meth:`generate`.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, **options)
        sampling.check_ids(self._backend.config.vocab_size)
        with self.desk.using() as reading:
            ids = reading.render("user", text)
            if remember:
                reading.sleep_if_due(len(ids))
                event = reading.log("user", text, ids, asked=True)
                with _kept(event):
                    reading.hear(ids)
                    return self._sourced(text, _written(reading, sampling), event.seq)
            aside = reading.aside()
            if reading.due(len(ids)):
                aside.make_room()
            feed(aside, ids, reading.empty)
            written = write(aside, self._chat.prompt(), self._chat.end, sampling, reading.empty)
            return self._sourced(text, reading.answer(list(caller.while_wanted(written))), sys.maxsize)

    def _sourced(self, question: str, answer: Answer, before: int) -> Answer:
        return replace(answer, find_sources=lambda: self._sources(question, answer.text, before))

    @overload
    def generate(
        self,
        *,
        stream: Literal[True],
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int | None = ...,
        metadata: Mapping[str, JSON] | None = ...,
        **options: Any,
    ) -> Stream: ...
    @overload
    def generate(
        self,
        *,
        stream: Literal[False] = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int | None = ...,
        metadata: Mapping[str, JSON] | None = ...,
        **options: Any,
    ) -> Answer: ...

    def generate(
        self,
        *,
        stream: bool = False,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        metadata: Mapping[str, JSON] | None = None,
        **options: Any,
    ) -> Answer | Stream:
        """Writes the assistant's next turn.

        Args:
            stream: True returns an iterator of text as it is written; the turn is on disk when it ends. A stream that
                is closed early keeps what it has written.
            max_new_tokens: where a turn is cut that has not ended by then; ``Answer.finished`` is then False.
            metadata: kept in the log's event, as ``data["metadata"]``.
            temperature: 0 is greedy.  top_p: the probability mass that is sampled from.  seed: makes sampling repeat.
            options: named and meant as in transformers' ``generate``, and applied in its order.

                - choosing: ``do_sample`` (True draws, at temperature 1 if none is given; False is greedy), ``top_k``,
                  ``min_p``, ``top_h``, ``typical_p``, ``epsilon_cutoff``, ``eta_cutoff``, ``renormalize_logits``
                - scores: ``repetition_penalty``, ``no_repeat_ngram_size``, ``bad_words_ids``, ``sequence_bias``,
                  ``suppress_tokens``, ``begin_suppress_tokens``, ``remove_invalid_values``, and, of your own,
                  ``logits_processor`` (a list of ``LogitsProcessor``) and ``prefix_allowed_tokens_fn``
                - length: ``min_new_tokens``, ``exponential_decay_length_penalty``, ``forced_eos_token_id``
                - ends, besides the chat format's own: ``eos_token_id`` (one or several), ``stop_strings``. They stay in
                  the text, tool calls are searched as well, and the turn counts as finished: the format's end is read
                  behind it, and counts among ``Answer.tokens``

                Processors see the window as the turn began, and all that was written since, whatever sleeps in between.
                Nothing is taken from the checkpoint's ``generation_config``; ``top_k`` is off unless it is given.

                Refused, since a turn is written once into one live state: beams, assisted decoding, contrastive search,
                several sequences, guidance, a cache or an input of your own (``past_key_values``, ``use_cache=False``,
                ``input_ids``), ``max_length`` (use ``max_new_tokens``), ``max_time``.

        Raises:
            SettingsError: a setting out of its range; an option that is not known, or refused. Also, with what was
                written kept, options that in the middle of the turn leave no token to choose from.
            SleepFailed: a sleep that the turn made necessary was not usable; what was written is kept.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, **options)
        sampling.check_ids(self._backend.config.vocab_size)
        data: dict[str, JSON] = {"metadata": dict(metadata)} if metadata else {}
        if stream:
            return Stream(self.desk, self._chat, sampling, data)
        with self.desk.using() as reading:
            return _written(reading, sampling, data)

    # How it sleeps

    def sleep(
        self,
        *,
        deep: bool = False,
        passes: Passes | None = None,
        rounds: int | None = None,
        windows: int | None = None,
    ) -> Snapshot | None:
        """Light sleep on the open window; with ``deep``, archived windows are then read again from the log.

        Args:
            passes: N of every visit; None takes the policy's, else the model's. "auto": as many as the policy's probes
                ask for; every visit of a deep sleep then makes the policy's ``max_passes``.
            rounds: how often a deep sleep reads every archived window; None takes the model's setting.
            windows: how many archived windows a deep sleep reads, the newest; None means all.

        Returns:
            The new snapshot; None where there was nothing to sleep on.

        Raises:
            SettingsError: passes, rounds or windows below 1; "auto" without probes in the policy.
            SleepFailed: the result was not usable; the old state stays in place.
        """
        rounds = self._backend.settings.rounds if rounds is None else rounds
        if passes == "auto":
            self._policy.check_auto()
        check_depth(1 if passes is None or passes == "auto" else passes, rounds)
        if windows is not None and (isinstance(windows, bool) or not isinstance(windows, int) or windows < 1):
            raise SettingsError(f"windows is {windows!r}; a deep sleep reads a whole number of at least 1")
        with self.desk.using() as reading:
            depth = reading.depth(passes)
            light = reading.sleep("asked", depth)
            most = depth.max_passes if isinstance(depth, Probing) else depth
            return (reading.sleep_deep(most, rounds, windows) or light) if deep else light


def _written(reading: OpenWindow, sampling: Sampling, data: Mapping[str, JSON] | None = None) -> Answer:
    turn = Turn(reading, sampling, data)
    while turn.step() is not None:
        pass
    return turn.answer


@contextmanager
def _kept(event: Event) -> Iterator[None]:
    """Whoever does it again would say it twice, so a failure tells that the message was stored."""
    try:
        yield
    except (SleepFailed, ArchiveError) as error:
        raise type(error)(
            f"{error} (the message itself is on disk, as event {event.seq}: do not add it again)"
        ) from error
