"""What a process does until it is killed, and how the archive alone does it."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from agentsleep.archive import Archive, Event, Line, NewEvent, Regrowth, Retention, TensorBytes, forget_user, regrow
from agentsleep.archive.codec import pack_tokens
from tests.archive.helpers import MODEL, slept
from tests.soak.ledger import USERS, Entry

Say = Callable[..., None]
MOST_THREADS = 5
FEW = Retention(keep_last=2)
MARKS = {"sleep": NewEvent(kind="sleep", data={"passes": 2}), "deep sleep": NewEvent(kind="deep_sleep", data={})}


def state_of(log: Sequence[Event]) -> list[TensorBytes]:
    """What stands in for fast weights: a function of the log alone, with parts that seldom change."""
    tokens = [token for event in log for token in event.token_ids]
    layers = {
        "layers.0.recurrent": hashlib.shake_256(pack_tokens(tuple(tokens))).digest(9000),
        "layers.1.recurrent": hashlib.shake_256(pack_tokens(tuple(tokens[: len(tokens) // 9 * 9]))).digest(6000),
        "layers.2.recurrent": bytes(5000),
    }
    return [TensorBytes(name=name, dtype="U8", shape=(len(data),), data=data) for name, data in layers.items()]


class Hand(ABC):
    """Does one thing at a time, and says before and after what it is."""

    ops: tuple[str, ...] = (
        "add",
        "sleep",
        "deep sleep",
        "tag",
        "prune",
        "fork",
        "rollback",
        "forget",
        "forget user",
        "checkpoint",
    )

    def __init__(self, archive: Archive, rng: random.Random, say: Say) -> None:
        self.archive, self.rng, self.say = archive, rng, say
        if archive.database.kind != "sqlite":
            self.ops = tuple(op for op in self.ops if op != "checkpoint")

    def possible(self, op: str) -> tuple[str, str, str]:
        """The operation, with a user and a thread for it; where it is not possible yet, one that leads to it."""
        user = "bob" if op == "forget user" else self.rng.choices(USERS, [4, 1])[0]
        sessions = self.archive.user("acme", user).sessions()
        ready = [one for one in sessions if one.events > 0]
        asleep = [one for one in sessions if one.head]
        if op in ("sleep", "deep sleep", "forget", "forget user") and not ready:
            op = "add"
        if op in ("tag", "fork", "rollback") and not asleep:
            op = "sleep" if ready else "add"
        if op in ("fork", "rollback") and len(sessions) >= MOST_THREADS:
            user, op = "bob", "forget user"
            ready = self.archive.user("acme", user).sessions()
            if not ready:
                return "add", user, "t0"
        names = [one.scope.thread for one in (asleep if op in ("tag", "fork", "rollback") else ready)]
        if op == "add" and (not names or self.rng.random() < 0.3):
            names = [f"t{number}" for number in range(3)]
        return op, user, self.rng.choice(names or [""])

    def do(self, op: str, user: str, thread: str) -> None:
        """One operation, announced and acknowledged."""
        getattr(self, op.replace(" ", "_"))(user, thread)

    def checkpoint(self, user: str, thread: str) -> None:
        self.begin("checkpoint", f"{user}/{thread}")
        with self.archive.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.end()

    def begin(self, op: str, key: str, **more: object) -> None:
        self._entry: Entry = {"op": op, "key": key, **more}
        self.say(trying=self._entry)

    def end(self, **more: object) -> None:
        self.say(did={**self._entry, **more})

    def history(self, user: str, thread: str) -> list[str]:
        part = self.archive.user("acme", user)
        found = part.find(thread)
        assert found is not None
        return [one.id for one in part.snapshots(found.id)]

    def seen(self, user: str, thread: str) -> dict[str, list[str]]:
        """Texts and history of a thread."""
        part = self.archive.user("acme", user)
        found = part.find(thread)
        assert found is not None
        texts = [one.text for one in part.events(found.id) if one.kind == "tokens" and one.text]
        return {"texts": texts, "history": self.history(user, thread)}

    def text(self) -> str:
        return f"q{self.rng.getrandbits(40):010x}"

    def some_text(self, user: str, thread: str) -> str:
        return self.rng.choice(self.seen(user, thread)["texts"] or [""])

    def prune(self, user: str, thread: str) -> None:
        self.begin("prune", f"{user}/{thread}")
        self.archive.user("acme", user).prune(FEW)
        self.end()

    def tag(self, user: str, thread: str) -> None:
        snapshot = self.rng.choice(self.history(user, thread))
        name = self.rng.choice([None, "keep", self.text()])
        self.begin("tag", f"{user}/{thread}", snapshot=snapshot, tag=name)
        self.archive.user("acme", user).tag(snapshot, name)
        self.end()

    @abstractmethod
    def add(self, user: str, thread: str) -> None: ...

    @abstractmethod
    def sleep(self, user: str, thread: str) -> None: ...

    @abstractmethod
    def deep_sleep(self, user: str, thread: str) -> None: ...

    @abstractmethod
    def fork(self, user: str, thread: str) -> None: ...

    @abstractmethod
    def rollback(self, user: str, thread: str) -> None: ...

    @abstractmethod
    def forget(self, user: str, thread: str) -> None: ...

    @abstractmethod
    def forget_user(self, user: str, thread: str) -> None: ...


class ArchiveHand(Hand):
    """The archive alone; its states are `state_of` the log."""

    def add(self, user: str, thread: str) -> None:
        part, texts = self.archive.user("acme", user), [self.text() for _ in range(self.rng.randint(1, 3))]
        self.begin("add", f"{user}/{thread}", texts=texts)
        session = part.open_session(thread, fingerprint=MODEL, settings={})
        ids = [tuple(self.rng.randrange(2**32) for _ in range(4)) for _ in texts]
        said = [
            NewEvent(kind="tokens", role="user", token_ids=one, text=text) for one, text in zip(ids, texts, strict=True)
        ]
        part.append(session.id, said)
        self.end(history=self.history(user, thread))

    def sleep(self, user: str, thread: str, op: str = "sleep") -> None:
        part = self.archive.user("acme", user)
        session = part.find(thread)
        assert session is not None
        self.begin(op, f"{user}/{thread}")
        state = state_of(part.events(session.id))
        slept(part, session.id, state, events=[MARKS[op]], environment={"soak": True}, expected_events=session.events)
        self.end(history=self.history(user, thread))

    def deep_sleep(self, user: str, thread: str) -> None:
        self.sleep(user, thread, "deep sleep")

    def fork(self, user: str, thread: str) -> None:
        snapshot, new = self.rng.choice(self.history(user, thread)), f"fork-{self.text()}"
        self.begin("fork", f"{user}/{thread}", new=f"{user}/{new}")
        self.archive.user("acme", user).fork(snapshot, new)
        self.end(**self.seen(user, new))

    def rollback(self, user: str, thread: str) -> None:
        snapshot, aside = self.rng.choice(self.history(user, thread)), f"aside-{self.text()}"
        part = self.archive.user("acme", user)
        session = part.find(thread)
        assert session is not None
        self.begin("rollback", f"{user}/{thread}", new=f"{user}/{aside}")
        part.rollback(session.id, snapshot, aside)
        self.end(**self.seen(user, thread))

    def forget(self, user: str, thread: str) -> None:
        text = self.some_text(user, thread)
        if not text:
            return
        part = self.archive.user("acme", user)
        self.begin("forget", f"{user}/{thread}", texts=[text])
        regrowths, condemned = [], set()
        for session in part.sessions():
            log, line = part.events(session.id), part.snapshots(session.id)
            first = next((event.seq for event in log if event.text == text), None)
            if first is None:
                continue
            base = next((one for one in reversed(line) if one.span[1] <= first), None)
            gone = [one for one in line if one.span[1] > first]
            condemned |= {one.id for one in gone}
            start = base.span[1] if base else 0
            kept, position = [], base.tokens if base else 0
            for event in log[start:]:
                if event.text != text:
                    kept.append(replace(event, seq=start + len(kept), position=position))
                    position += len(event.token_ids)
            snapshots, states, before = [], {}, start
            for one in gone:
                upto = kept[: one.span[1] - start - 1]
                name = f"{self.rng.getrandbits(128):032x}"
                states[name] = state_of([*log[:start], *upto])
                tokens = (base.tokens if base else 0) + sum(len(event.token_ids) for event in upto)
                span = (before, start + len(upto))
                size = sum(len(tensor.view()) for tensor in states[name])
                snapshots.append(
                    replace(one, id=name, span=span, tokens=tokens, state_bytes=size, environment={"soak": True})
                )
                before = span[1]
            regrowths.append(
                Regrowth(
                    session_id=session.id,
                    base=base,
                    expected_head=session.head,
                    expected_events=session.events,
                    line=Line(events=kept, snapshots=snapshots, states=states),
                )
            )
        regrow(part, regrowths, condemned, 1)
        purged = self.rng.random() < 0.5 and not self.archive.database.purge()
        self.end(purged=purged)

    def forget_user(self, user: str, thread: str) -> None:
        self.begin("forget user", f"{user}/{thread}")
        forget_user(self.archive.user("acme", user))
        self.end(purged=not self.archive.database.purge())
