"""What a process does through a memory with its model, until it is killed."""

from __future__ import annotations

import random

from agentsleep.memory import SleepMemory
from tests.soak.hands import Hand, Say


class MemoryHand(Hand):
    """A memory with its model: windows, sleeps and all."""

    def __init__(self, memory: SleepMemory, rng: random.Random, say: Say) -> None:
        super().__init__(memory.archive, rng, say)
        self.memory = memory

    def add(self, user: str, thread: str) -> None:
        text = self.text()
        self.begin("add", f"{user}/{thread}", texts=[text])
        with self.memory.session(thread, user=user, tenant="acme") as session:
            session.add("tool", text)
        self.end(history=self.history(user, thread))

    def sleep(self, user: str, thread: str) -> None:
        self.begin("sleep", f"{user}/{thread}")
        with self.memory.session(thread, user=user, tenant="acme") as session:
            session.sleep()
        self.end(history=self.history(user, thread))

    def deep_sleep(self, user: str, thread: str) -> None:
        self.begin("deep sleep", f"{user}/{thread}")
        with self.memory.session(thread, user=user, tenant="acme") as session:
            session.sleep(deep=True, windows=2)
        self.end(history=self.history(user, thread))

    def fork(self, user: str, thread: str) -> None:
        part, new = self.archive.user("acme", user), f"fork-{self.text()}"
        snapshot = part.snapshot(self.rng.choice(self.history(user, thread)))
        self.begin("fork", f"{user}/{thread}", new=f"{user}/{new}")
        self.memory.fork(snapshot, new).close()
        self.end(**self.seen(user, new))

    def rollback(self, user: str, thread: str) -> None:
        part, aside = self.archive.user("acme", user), f"aside-{self.text()}"
        snapshot = part.snapshot(self.rng.choice(self.history(user, thread)))
        self.begin("rollback", f"{user}/{thread}", new=f"{user}/{aside}")
        self.memory.rollback(self.memory.session(thread, user=user, tenant="acme"), snapshot, aside).close()
        self.end(**self.seen(user, thread))

    def forget(self, user: str, thread: str) -> None:
        part, text = self.archive.user("acme", user), self.some_text(user, thread)
        if not text:
            return
        session = part.find(thread)
        assert session is not None
        seq = next(event.seq for event in part.events(session.id) if event.text == text)
        self.begin("forget", f"{user}/{thread}", texts=[text])
        done = self.memory.forget(thread, {seq}, user=user, tenant="acme")
        self.end(purged=not done.out_of_reach)

    def forget_user(self, user: str, thread: str) -> None:
        self.begin("forget user", f"{user}/{thread}")
        done = self.memory.forget(None, user=user, tenant="acme")
        self.end(purged=not done.out_of_reach)
