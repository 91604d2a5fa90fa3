"""The assistant's turn while it is being written."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from agentsleep.archive import JSON
from agentsleep.memory import caller
from agentsleep.memory.decoding import Sampling
from agentsleep.memory.values import Answer
from agentsleep.memory.window import OpenWindow


class Turn:
    """Written one token a step. However it ends, what was read of it goes into the log.

    Where the caller that began it is cancelled, it ends at the next token.

    Args:
        data: for the log.
    """

    def __init__(self, reading: OpenWindow, sampling: Sampling, data: Mapping[str, JSON] | None = None) -> None:
        self.written: list[int] = []
        self.ended = threading.Event()
        self.abandoned = False  # nobody will ask for its next token
        self.caller = caller.identity()  # that asked for a token last
        self._reading, self._data = reading, data
        self._tokens = caller.while_wanted(reading.write(sampling))

    @property
    def over(self) -> bool:
        """Whether no step is to follow."""
        return self.ended.is_set()

    def step(self) -> int | None:
        """The next token; None when the turn is in the log."""
        self.caller = caller.identity()
        try:
            token = next(self._tokens, None)
            if token is not None:
                self.written.append(token)
                return token
        except BaseException:
            self.ended.set()
            self._reading.end_turn(self.written, broken=True, more=self._data)
            raise
        self.end()
        return None

    @property
    def answer(self) -> Answer:
        """What was written."""
        return self._reading.answer(self.written, self._reading.turn_event)

    def end(self) -> None:
        """Logs the turn as it is."""
        self.ended.set()
        self._reading.end_turn(self.written, more=self._data)
        self._reading.sleep_if_due()
