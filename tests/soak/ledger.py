"""What a killed process had acknowledged, and whether the archive still has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentsleep.archive import Archive

USERS = ("ada", "bob")
Entry = dict[str, Any]
"""`{"op", "key", ...}`: what is being done, or was done, to the thread "user/thread"."""


@dataclass
class Thread:
    """texts: of its log, in order.  history: ids of its snapshots, oldest first; None where that is not known."""

    texts: list[str]
    history: list[str] | None


@dataclass
class Picture:
    """What the archive holds, as far as a kill could damage it."""

    threads: dict[str, Thread] = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)


def read(archive: Archive) -> Picture:
    """The archive as it is."""
    picture = Picture()
    for name in USERS:
        user = archive.user("acme", name)
        for session in user.sessions():
            texts = [one.text for one in user.events(session.id) if one.kind == "tokens" and one.text]
            history = [one.id for one in user.snapshots(session.id)]
            picture.threads[f"{name}/{session.scope.thread}"] = Thread(texts, history)
        picture.tags |= {one.id: one.tag for one in user.all_snapshots()}
    return picture


class Ledger:
    """The acknowledged truth."""

    def __init__(self) -> None:
        self.known = Picture()
        self.forgotten: set[str] = set()
        self.purged: set[str] = set()

    def apply(self, did: Entry) -> None:
        """Takes an acknowledgement down."""
        op, key, threads = did["op"], did["key"], self.known.threads
        if op == "add":
            threads.setdefault(key, Thread([], [])).texts.extend(did["texts"])
        if op in ("add", "sleep", "deep sleep"):
            threads[key].history = did["history"]
        elif op == "tag":
            self.known.tags[did["snapshot"]] = did["tag"]
        elif op == "fork":
            threads[did["new"]] = Thread(did["texts"], did["history"])
        elif op == "rollback":
            threads[did["new"]] = threads[key]
            threads[key] = Thread(did["texts"], did["history"])
        elif op == "forget":
            (text,) = did["texts"]
            for name in self._of(key):
                if text in threads[name].texts:
                    threads[name] = Thread([one for one in threads[name].texts if one != text], None)
            self._gone([text], did)
        elif op == "forget user":
            for name in self._of(key):
                self._gone(threads.pop(name).texts, did)

    def _gone(self, texts: list[str], did: Entry) -> None:
        self.forgotten |= {*texts}
        if did.get("purged"):
            self.purged |= {*texts}

    def _of(self, key: str) -> list[str]:
        user = key.split("/")[0]
        return [name for name in self.known.threads if name.split("/")[0] == user]

    def compare(self, found: Picture, trying: Entry | None) -> list[str]:
        """What is lost, or half, or back again.

        Args:
            trying: what the process had begun and not acknowledged; it has happened as a whole or not at all.
        """
        op = trying["op"] if trying else ""
        key = trying["key"] if trying else ""
        mine = self._of(key) if trying else []
        if op == "forget user" and not any(name in found.threads for name in mine):
            wrong, left = [], {k: v for k, v in self.known.threads.items() if k not in mine}
        else:
            wrong, left = [], dict(self.known.threads)
        lost_text = ""
        if op == "forget" and trying:
            (text,) = trying["texts"]
            has = {text in found.threads[n].texts for n in mine if text in left[n].texts and n in found.threads}
            if len(has) > 1:
                wrong.append(f"{text!r} is forgotten in some threads only")
            lost_text = "" if True in has else text
        if op == "rollback" and trying and trying["new"] in found.threads:
            whole = left.pop(key)
            left[trying["new"]] = whole
            if found.threads[key].texts != whole.texts[: len(found.threads[key].texts)]:
                wrong.append(f"{key} was rolled back to something else")
        for name, thread in left.items():
            here = found.threads.get(name)
            if here is None:
                wrong.append(f"thread {name} is lost")
                continue
            wanted = [one for one in thread.texts if one != lost_text]
            more = here.texts[len(wanted) :]
            if here.texts[: len(wanted)] != wanted:
                wrong.append(f"{name} should begin with {wanted}, it has {here.texts}")
            elif more and not (op == "add" and name == key and trying and more == trying["texts"]):
                wrong.append(f"{name} has {more}, which nobody has finished saying")
            if thread.history is None or (lost_text and len(wanted) < len(thread.texts)):
                continue
            moving = name == key and op in ("add", "sleep", "deep sleep")
            history = here.history or []
            if history[: len(thread.history)] != thread.history or (history != thread.history and not moving):
                wrong.append(f"{name} should have the snapshots {thread.history}, it has {history}")
        expected = {*left, key, trying.get("new", "") if trying else ""}
        wrong += [f"thread {name} came from nowhere" for name in found.threads if name not in expected]
        back = self.forgotten & {text for one in found.threads.values() for text in one.texts}
        wrong += [f"{text!r} was forgotten, and is back" for text in back]
        for name, tag in self.known.tags.items():
            now = found.tags.get(name, tag)
            if now != tag and not (op == "tag" and trying and trying["snapshot"] == name and now == trying["tag"]):
                wrong.append(f"snapshot {name} should have the tag {tag!r}, it has {now!r}")
        return wrong

    def settle(self, found: Picture) -> None:
        """What was found is what the next process begins with."""
        self.known = found
