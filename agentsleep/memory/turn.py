"""The assistant's turn while it is being written."""

from __future__ import annotations

import threading

from agentsleep.memory.decoding import Sampling
from agentsleep.memory.values import Answer
from agentsleep.memory.window import OpenWindow


class Turn:
    """Written one token a step. However it ends, what was read of it goes into the log."""

    def __init__(self, reading: OpenWindow, sampling: Sampling) -> None:
        self.written: list[int] = []
        self.over = False
        self.abandoned = False  # nobody will ask for its next token
        self.thread = threading.get_ident()  # that asked for a token last
        self._reading = reading
        self._tokens = reading.write(sampling)

    def step(self) -> int | None:
        """The next token; None when the turn is in the log."""
        self.thread = threading.get_ident()
        try:
            token = next(self._tokens, None)
            if token is not None:
                self.written.append(token)
                return token
        except BaseException:
            self.over = True
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
        self.over = True
        self._reading.end_turn(self.written)
        self._reading.sleep_if_due()
