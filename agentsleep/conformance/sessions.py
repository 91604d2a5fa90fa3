"""Checks of a back end under sessions: sleeping in the middle of a turn, pins, streams, many sleeps, threads."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from agentsleep.conformance.outcome import Found, expect, near
from agentsleep.conformance.subject import (
    SYSTEM,
    TOOL,
    Subject,
    apart,
    bit_equal,
    flaw,
    states_apart,
)
from agentsleep.conformance.tensors import tail_of
from agentsleep.memory import Answer, Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights

WINDOWS = 20
SLEEPS = 50
_DRAWN: dict[str, Any] = {"temperature": 1.0, "seed": 5}  # so that a model of any kind says different things
_GROWTH = 100.0  # of the state's norm, between the tenth sleep and the last


def overflow(subject: Subject) -> Found:
    """A turn that overflows its window sleeps in its middle: the log holds all of it, the state is what the log
    computes to, bit for bit, and opened again the session has the same window and the same logits."""
    with subject.memory() as memory:
        return _overflows(subject, memory)


def _overflows(subject: Subject, memory: SleepMemory) -> Found:
    tokens = memory.backend.settings.window + 8
    with memory.session("overflow") as session:
        session.add("user", subject.line(0))
        answer = session.generate(max_new_tokens=tokens, min_new_tokens=tokens, **_DRAWN)
        log = session.archive.events(session.id)
        expect(any(event.data.get("open_turn") for event in log), "no sleep fell into a turn longer than the window")
        expect(answer.tokens == tokens, f"the turn has {answer.tokens} tokens of {tokens}")
        said = sum(len(event.token_ids) for event in log if event.role == "assistant")
        least = tokens + len(memory.chat.prompt())
        expect(said >= least, f"the log holds {said} tokens of a turn of {least}")
        error = _reopened(subject, memory, session)
    return Found(error, f"a turn of {tokens} tokens in windows of {memory.backend.settings.window}; logits reopened")


def _reopened(subject: Subject, memory: SleepMemory, session: Session) -> float:
    """How far the logits of a session are from those it has when it is closed and opened again."""
    said = flaw(session)
    expect(said is None, f"{said}")
    before, ids, state = session.window.logits, session.window.ids, session.state
    session.close()
    with memory.session(session.scope.thread, create=False) as again:
        expect(again.window.ids == ids, "a session opens again with another window")
        expect(bit_equal(again.state, state), "a session opens again with another state")
        return near(apart(again.window.logits, before), subject.tolerance, "the reopened window")


def streaming(subject: Subject) -> Found:
    """The same turn streamed and written at once has the same text; a stop string ends it where it first appears; a
    seed makes a drawn turn repeat."""
    options: dict[str, Any] = {"max_new_tokens": 24, "min_new_tokens": 24, **_DRAWN}
    with subject.memory() as memory:
        whole, again = (_spoken(subject, memory, name, **options) for name in ("whole", "again"))
        expect(again == whole, f"the same seed gives {again.text!r} after {whole.text!r}")
        with memory.session("stream") as session:
            session.add("user", subject.line(0))
            pieces = list(stream := session.generate(stream=True, **options))
            expect(stream.answer == whole, f"streamed, the turn is {stream.answer} in place of {whole}")
            if whole.thought is None and not whole.calls and whole.warning is None:
                expect("".join(pieces) == whole.text, f"the pieces {pieces} are not the text {whole.text!r}")
        words = re.findall(r"[A-Za-z]{2,}|[0-9]", whole.text)
        if not words:
            return Found(None, "streamed as at once, seeded turns repeat; no word to stop at")
        stop = words[len(words) // 2]
        cut = _spoken(subject, memory, "cut", stop_strings=[stop], **options)
        first = whole.text[: whole.text.index(stop) + len(stop)]
        expect(cut.text.startswith(first), f"stopped at {stop!r}, the turn is {cut.text!r}, not {first!r}")
        expect(len(cut.text) < len(whole.text) or whole.text.endswith(stop), f"the turn goes on behind {stop!r}")
        expect(cut.finished, f"a turn that stops at {stop!r} does not count as finished")
    return Found(None, f"streamed as at once, seeded turns repeat, stopped at {stop!r}")


def _spoken(subject: Subject, memory: SleepMemory, thread: str, **options: Any) -> Answer:
    with memory.session(thread) as session:
        session.add("user", subject.line(0))
        answer: Answer = session.generate(**options)
        return answer


def pins(subject: Subject) -> Found:
    """In a conversation of 20 windows, the system prompt and the list of tools are at the head of every one, and behind
    them the last messages of the window before, which the policy keeps."""
    chat = subject.chat.with_tools([TOOL])
    head = chat.head(SYSTEM, [TOOL])
    policy = SleepPolicy(trigger=("fraction", 0.9), keep=("messages", 2))
    settings = {"window": subject.window(len(head)), "pin": ("system", "tools"), "passes": 1}
    with subject.memory(policy, **settings) as memory, memory.session("pins", system=SYSTEM) as session:
        session.pin(tools=[TOOL])
        said: list[list[int]] = []
        while session.stats().snapshots < WINDOWS:
            before = session.stats().snapshots
            said.append(list(session.add("user", subject.line(len(said))).token_ids))
            if session.stats().snapshots == before:
                continue
            ids = session.window.ids
            expect(ids[: len(head)] == head, f"window {before + 2} does not begin with the system prompt and the tools")
            kept = [
                [token for ids in said[-n:] for token in ids] for n in (2, 3)
            ]  # 3: the sleep came before the newest message
            expect(ids[len(head) :] in kept, f"window {before + 2} does not go on with the messages that are kept")
        marks = [event.data for event in session.archive.events(session.id) if event.kind == "sleep"]
        expect(all(mark["pinned"] == head for mark in marks), "a window was slept on without what is pinned")
        text = subject.backend.tokenizer.decode(session.window.ids[: len(head)])
        expect("look_up" in text, f"the tool is not on offer in the open window, whose head is {text!r}")
        wrong = flaw(session)
        expect(wrong is None, f"{wrong}")
    return Found(None, f"{len(head)} tokens at the head of {WINDOWS} windows and two messages kept")


def sliding_session(subject: Subject) -> Found:
    """A session whose windows still see the last keys of the one before sleeps, opens again with the same logits, and
    is computed again from its log bit for bit."""
    with subject.memory(eviction="sliding", tail=tail_of(subject)) as memory, memory.session("sliding") as session:
        for i in range(4):
            session.add("user", subject.line(i))
            if i < 3:
                session.sleep()
        return Found(_reopened(subject, memory, session), "three sleeps with a tail of keys; logits reopened")


def many_sleeps(subject: Subject) -> Found:
    """After 50 sleeps nothing is NaN or Inf and the state has not run away. The figure is the state's norm after the
    last sleep over that after the tenth."""
    with subject.memory(passes=2) as memory, memory.session("many") as session:
        for i in range(SLEEPS):
            session.add("user", subject.line(i))
            session.sleep()
        norms = [float(str(snapshot.metrics["norm"])) for snapshot in session.history()]
        session.add("user", subject.line(SLEEPS))
        logits = session.window.logits
        expect(logits is not None and bool(torch.isfinite(logits).all()), "the logits are not finite any more")
    growth = norms[-1] / norms[9]
    expect(len(norms) == SLEEPS, f"{SLEEPS} sleeps left {len(norms)} snapshots")
    expect(growth < _GROWTH, f"the norm grew from {norms[9]:.3g} to {norms[-1]:.3g} and has no bound", growth)
    return Found(growth, f"norm {norms[0]:.3g} at first, {norms[9]:.3g} after ten, {norms[-1]:.3g} after {SLEEPS}")


def threads(subject: Subject) -> Found:
    """Two sessions of one memory that two threads use at once say and keep what each does alone."""

    def talk(memory: SleepMemory, name: str, first: int) -> tuple[str, FastWeights]:
        with memory.session(name) as session:
            for i in range(first, first + 4):
                session.add("user", subject.line(i))
            answer = session.generate(max_new_tokens=12, **_DRAWN)
            session.sleep()
            return answer.text, session.state

    with subject.memory() as memory:
        alone = [talk(memory, f"alone {first}", first) for first in (0, 5)]
        with ThreadPoolExecutor(2) as pool:
            begun = [pool.submit(talk, memory, f"together {first}", first) for first in (0, 5)]
            together = [future.result() for future in begun]
    error = 0.0
    for (text, state), (other, beside) in zip(alone, together, strict=True):
        expect(text == other, f"beside another session a session says {other!r}, alone {text!r}")
        error = max(
            error, near(states_apart(beside, state), subject.tolerance, "the state of a session beside another")
        )
    return Found(error, "two sessions on two threads against each alone")
