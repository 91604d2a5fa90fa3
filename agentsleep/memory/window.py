"""What a session's open window hears and says, and how that gets into the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentsleep.archive import JSON, Event, NewEvent, Scope
from agentsleep.chat import Role, ToolCall
from agentsleep.errors import MessageTooLong
from agentsleep.memory.decoding import Sampling, Scratch, feed, write
from agentsleep.memory.pins import Pins
from agentsleep.memory.shared import Shared
from agentsleep.memory.sleeping import SleepingWindow
from agentsleep.memory.values import Answer


class OpenWindow(SleepingWindow):
    """The open window of the one who holds the session's lock, or, with ``upto``, of somebody who only sleeps."""

    def __init__(self, shared: Shared, session_id: str, scope: Scope, *, upto: int | None = None) -> None:
        super().__init__(shared, session_id, scope, upto=upto)
        self._turn_event: int | None = None
        if self._mark.get("open_turn") and not self._heard and upto is None:
            self._close_turn()

    def _close_turn(self) -> None:
        """Ends an assistant's turn whose writer died after a sleep had fallen into it."""
        ids: list[int] = []
        seq = self._events - 1  # marks, and between them the parts of the turn
        while seq >= 0 and ((part := self._event(seq)).kind != "tokens" or part.data.get("open")):
            ids, seq = [*part.token_ids, *ids], seq - 1
        self._turn_logged, self._open_turn = True, False
        self.end_turn(ids[len(self._chat.prompt()) :])

    # Hearing and writing

    def render(self, role: Role, text: str) -> list[int]:
        """The tokens of a message.

        Raises:
            EmptyMessage, InputError: as :meth:`agentsleep.chat.ChatFormat.message`.
            MessageTooLong: it would fill more windows than the policy allows.
        """
        ids = self._chat.message(role, text)
        self._check_length(ids, role)
        return ids

    def _check_length(self, ids: Sequence[int], role: Role) -> None:
        most = self._policy.max_windows * self.empty
        if len(ids) > most:
            raise MessageTooLong(
                f"a {role} message of {len(ids)} tokens would fill more than {self._policy.max_windows} windows "
                f"({most} tokens); shorten it, or raise SleepPolicy(max_windows=...)"
            )

    def log(self, role: Role, text: str, ids: Sequence[int], **data: JSON) -> Event:
        """Logs a message, which :meth:`hear` is then to read."""
        event = NewEvent(kind="tokens", role=role, token_ids=tuple(ids), text=text, data=data, created=self.dated)
        return self._append(event)

    def hear(self, ids: Sequence[int]) -> None:
        """Reads a message that is in the log."""
        feed(self, ids, self.empty)

    def pin(self, pins: Pins, **more: JSON) -> None:
        """Logs other pins. They hold from the next OpenWindow on, which re-reads this window under its new head."""
        settings = self._backend.settings
        data = pins.data(settings, pins.render(self._chat.with_tools(pins.tools), settings))
        event = NewEvent(kind="tokens", role="system", text=pins.system, data=data | more, created=self.dated)
        self._append(event)

    def aside(self) -> Scratch:
        """A fork in memory."""
        return Scratch(self.window.fork(), self.pinned, self.depth())

    def write(self, sampling: Sampling) -> Iterator[int]:
        """Writes the assistant's turn token by token; :meth:`end_turn` is to follow, however it ends."""
        self._pending, self._turn_logged = [], False
        return write(self, self._chat.prompt(), self._chat.end, sampling, self.empty, self._pending_more)

    def take_over(self, event: Event) -> None:
        """Logs an event that was logged before, in another session of the same model."""
        again = NewEvent(
            kind=event.kind,
            role=event.role,
            token_ids=event.token_ids,
            text=event.text,
            data=event.data,
            created=event.created,
        )
        self._append(again)

    def speak(self, text: str, calls: Sequence[ToolCall], **more: JSON) -> None:
        """Reads and logs a turn that another model wrote, in this one's format; calls one after the other.

        Raises:
            EmptyMessage, InputError: as :meth:`agentsleep.chat.ChatFormat.call`; nothing was read.
            MessageTooLong: it would fill more windows than the policy allows.
        """
        turns: list[tuple[list[int], str, ToolCall | None]]
        turns = [(ids, self._written(ids) or call.to_json(), call) for call in calls for ids in [self._chat.call(call)]]
        if not turns:
            blank = [*self._chat.prompt(), self._chat.end, *self._chat.close]
            turns = [(self._chat.message("assistant", text) if text.strip() else blank, text, None)]
        for ids, _text, _call in turns:
            self._check_length(ids, "assistant")
        for ids, said, call in turns:
            data: dict[str, JSON] = {"generated": True}
            if call is not None:
                data |= {"said": "", "calls": [{"name": call.name, "arguments": dict(call.arguments)}]}
            self.repeat_turn(ids, said, data | more)

    def _written(self, ids: Sequence[int]) -> str:
        """What a turn would say if the model had written it; empty for one that does not follow its prompt."""
        prompt = self._chat.prompt()
        return self._chat.text(ids[len(prompt) :]) if [*ids[: len(prompt)]] == prompt else ""

    def repeat_turn(self, ids: Sequence[int], text: str | None, data: Mapping[str, JSON]) -> None:
        """Reads and logs a turn that was written before, as :meth:`write` would have read it: a sleep falls into it
        where the window is full.

        Args:
            ids: its tokens, from the prompt to what closes it.
            text, data: for the log.
        """
        ids, prompt, close = list(ids), self._chat.prompt(), self._chat.close
        tail = len(close) + bool(data.get("cut"))  # an end that the model did not write
        if ids[-len(close) - 1 :] != [self._chat.end, *close]:
            tail = 1  # a format that ends this turn otherwise
        body, rest = ids[len(prompt) : len(ids) - tail], ids[len(ids) - tail :]
        self._pending, self._turn_logged = [], False
        feed(self, ids[: len(prompt)], self.empty, self._pending_more)
        feed(self, body, 0, self._pending_more)
        said = (*self._pending, *rest)
        self._pending, self._turn_logged = [], False
        event = NewEvent(
            kind="tokens", role="assistant", token_ids=said, text=text, data=dict(data), created=self.dated
        )
        self._turn_event = self._append(event).seq
        feed(self, rest, self.empty)

    def _pending_more(self, ids: Sequence[int]) -> None:
        self._pending += ids  # not the list's own method: a sleep puts another list in its place

    def end_turn(self, written: Sequence[int], *, broken: bool = False, more: Mapping[str, JSON] | None = None) -> None:
        """Logs a turn, or what a sleep has left of it; one that is cut off gets an end all the same.

        Args:
            written: its tokens without the prompt.
            broken: something broke off; these are the last words of this object.
            more: for the log.
        """
        end, close = self._chat.end, self._chat.close
        if broken and self._parting and any(e.data.get("open") for e in self._archive.events(self._id, self._events)):
            # What broke off was a sleep that had been stored, and with it what was pending.
            self._turn_logged, self._pending = True, []
        if not self._pending and not self._turn_logged:
            return
        finished = bool(written) and written[-1] == end
        text = self._chat.text(written)
        data: dict[str, JSON] = {"generated": True, **({} if finished else {"cut": True}), **(more or {})}
        reply = self._chat.parse(written)
        if reply.warning:
            data["warning"] = reply.warning
        tail = [*(() if finished else (end,)), *close]
        ids = [*self._pending, *tail]
        # A thought goes at the turn's end where the format has it so, unless a sleep has taken it in already, or the
        # turn calls a tool: behind its result the model thinks on.
        forgets = self._chat.drops_thoughts and not self._turn_logged and reply.call is None
        past = self._chat.without_thought(ids) if forgets else ids
        self._pending, self._turn_logged = [], False
        if past != ids:
            data["unthought"] = len(ids) - len(past)
        if reply.text != text:  # this and the calls are for readers without this model's tokenizer
            data["said"] = reply.text
        if reply.calls:
            data["calls"] = [{"name": call.name, "arguments": dict(call.arguments)} for call in reply.calls]
        said = NewEvent(
            kind="tokens", role="assistant", token_ids=tuple(past), text=text, data=data, created=self.dated
        )
        self._turn_event = self._append(said).seq
        if broken:
            return
        if past == ids:
            feed(self, tail, self.empty)
        else:  # the window as a later turn is to see it
            read = self.window.ids[len(self.pinned) : len(self.window) - (len(ids) - len(tail))]
            self._enter(self.window.opened, [read, past])

    @property
    def turn_event(self) -> int | None:
        """Seq of the last turn that this object has logged."""
        return self._turn_event

    def answer(self, written: Sequence[int], event: int | None = None) -> Answer:
        """A turn as the caller gets it; ``event`` is its seq in the log."""
        reply = self._chat.parse(written)
        return Answer(
            text=reply.text,
            snapshot=self.head.id if self.head else None,
            tokens=len(written),
            finished=bool(written) and written[-1] == self._chat.end,
            call=reply.call,
            calls=reply.calls,
            thought=reply.thought,
            warning=reply.warning,
            event=event,
        )
