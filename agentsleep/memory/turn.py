"""The assistant's turn while it is being written."""

from __future__ import annotations

import threading

from agentsleep.memory import caller
from agentsleep.memory.decoding import Sampling
from agentsleep.memory.values import Answer
from agentsleep.memory.window import OpenWindow


class Turn:
    """Written one token a step. However it ends, what was read of it goes into the log.

    Where the caller that began it is cancelled, it ends at the next token.
    """

    def __init__(self, reading: OpenWindow, sampling: Sampling) -> None:
        self.written: list[int] = []
        self.ended = threading.Event()
        self.abandoned = False  # nobody will ask for its next token
        self.caller = caller.identity()  # that asked for a token last
        self._reading = reading
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
            self._reading.end_turn(self.written, broken=True)
            raise
        self.end()
        return None

    @property
    def answer(self) -> Answer:
        """What was written."""
        return self._reading.answer(self.written)

    def end(self) -> None:
        """Logs the turn as it is."""
        self.ended.set()
        self._reading.end_turn(self.written)
        self._reading.sleep_if_due()
