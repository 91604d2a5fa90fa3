"""A turn as a caller sees it while it is being written: text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

from agentsleep.archive import JSON
from agentsleep.chat import ChatFormat
from agentsleep.memory.desk import Desk
from agentsleep.memory.sampling import Sampling
from agentsleep.memory.turn import Turn
from agentsleep.memory.values import Answer


class Stream(Iterator[str]):
    """The text of a turn as it is written. The turn is on disk when the iterator ends, or :meth:`close` returns.

    Until then the session belongs to the stream: whoever else wants to write waits as long as the session's
    ``timeout`` says, and then gets SessionBusy. A stream that nobody holds any more counts as closed.

    A tool call is no text; it is in :attr:`answer`.
    """

    def __init__(
        self, desk: Desk, chat: ChatFormat, sampling: Sampling, data: Mapping[str, JSON] | None = None
    ) -> None:
        self.answer: Answer | None = None
        """The whole turn, once it is over."""
        self._desk, self._sampling, self._data = desk, sampling, data
        self._turn: Turn | None = None
        self._chat, self._shown = chat, ""
        self._done = False

    def __next__(self) -> str:
        while not self._done:
            try:
                piece = self._step()
            except BaseException:
                self._done = self._over
                raise
            if piece:
                return piece
        raise StopIteration

    def _step(self) -> str:
        if self._turn is None:
            self._turn = self._desk.begin(self._sampling, self._data)
        token = self._desk.step(self._turn)
        if token is None:
            self._done = True
            self.answer = self._turn.answer
            return self._piece(self.answer.text)
        return self._piece(self._chat.shown(self._turn.written))

    def _piece(self, text: str) -> str:
        """What the text so far adds to what was shown of it, which is never taken back."""
        if not text.startswith(self._shown):
            return ""
        piece, self._shown = text[len(self._shown) :], text
        return piece

    def close(self) -> None:
        """Ends the turn here. What was written of it stays in the session, marked as cut."""
        if self._done:
            return
        try:
            if self._turn is not None:
                self._desk.end(self._turn)
                self.answer = self._turn.answer
        finally:
            self._done = self._over

    @property
    def _over(self) -> bool:
        """Whether there is nothing to end: a turn that was interrupted while it waited for the model can still go on,
        or be closed."""
        return self._turn is None or self._turn.over

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # This may run at any moment and in any thread, where nothing can be written: the session ends the turn when it
        # is used next, or closed.
        if self._turn is not None:
            self._turn.abandoned = True
