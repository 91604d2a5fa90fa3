"""The model's part of ``agentsleep doctor``: it reads, sleeps and comes back, in an archive that is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from agentsleep.backends import LiveWindow
from agentsleep.cli.checks import Check
from agentsleep.errors import AgentsleepError
from agentsleep.memory import Session, SleepMemory
from agentsleep.state import FastWeights

TOLERANCE = 1e-4  # between one forward and several, relative to the largest logit
RESTORED = 1e-5
LINES = ("bob hands over to alice .", "the coffee is cold today .", "alice hands over to dave .")
_REINSTALL = "copy the checkpoint again (nap-mini: reinstall agentsleep); if that does not help, report it"

Test = Callable[[SleepMemory, Session], tuple[bool, str]]


def selftest(model: Path | None) -> Iterator[Check]:
    """Loads the model and puts it through its paces; a test that raises is a failure, never a traceback."""
    try:
        memory = SleepMemory(model, archive=":memory:")
    except Exception as error:  # whatever a broken installation raises is what the doctor is asked about
        yield _raised("load", error)
        return
    with memory:
        settings = memory.backend.settings
        weights = sum(p.numel() for p in memory.backend.model.parameters())
        name = "nap-mini" if model is None else str(model)
        about = f"{name}: {weights:,} weights, window {settings.window}, passes {settings.passes}"
        yield Check("model", "load", "ok", about)
        yield Check("model", "fingerprint", "ok", memory.fingerprint)
        session: Session | None = None
        try:
            session = memory.session("doctor")
            _read_and_sleep(session)
            yield from _tests(memory, session)
        except Exception as error:
            yield _raised("sleep", error)
        finally:
            if session is not None:
                session.close()


def _tests(memory: SleepMemory, session: Session) -> Iterator[Check]:
    for title, test in _TESTS.items():
        try:
            fine, value = test(memory, session)
        except Exception as error:
            yield _raised(title, error)
        else:
            yield Check("model", title, "ok" if fine else "fail", value, "" if fine else _REINSTALL)


def _raised(title: str, error: Exception) -> Check:
    kind = "" if isinstance(error, AgentsleepError) else f"{type(error).__name__}: "
    return Check("model", title, "fail", f"{kind}{error}"[:300], _REINSTALL)


def _read_and_sleep(session: Session) -> None:
    """Two light sleeps, a deep one, and an open window."""
    session.add("tool", LINES[0])
    session.sleep()
    session.add("user", LINES[1])
    session.sleep(deep=True, rounds=1)
    session.add("tool", LINES[2])


def _sleeps(memory: SleepMemory, session: Session) -> tuple[bool, str]:
    stats = session.stats()
    fine = session.state.is_finite() and stats.norm > 0 and stats.snapshots == 3
    took = ", ".join(f"{snapshot.mode} {snapshot.metrics['ms']:.0f} ms" for snapshot in session.history())
    return fine, f"state of {stats.state_bytes:,} bytes, norm {stats.norm:.3g}; {took}"


def _chunked(memory: SleepMemory, session: Session) -> tuple[bool, str]:
    """Reading token by token, in odd pieces and at once must come to the same."""
    ids = [token for line in LINES for token in memory.chat.message("user", line)]
    ids = ids[: memory.backend.settings.window]
    spoken = []
    for size in (len(ids), 1, 7):
        window = LiveWindow(memory.backend, session.state)
        for start in range(0, len(ids), size):
            window.read(ids[start : start + size])
        assert window.logits is not None
        spoken.append(window.logits)
    apart = max(float((spoken[0] - other).abs().max()) for other in spoken[1:])
    allowed = TOLERANCE * max(1.0, float(spoken[0].abs().max()))
    return apart <= allowed, f"{len(ids)} tokens at once, one by one, in sevens: logits differ by at most {apart:.2g}"


def _round_trip(memory: SleepMemory, session: Session) -> tuple[bool, str]:
    head = session.head
    assert head is not None
    stored = memory.archive.load_state(head.id, tenant=session.scope.tenant, user=session.scope.user)
    apart = max(FastWeights.load(stored).diff(session.state).values())
    return apart == 0, f"{len(stored):,} bytes of safetensors, largest difference {apart:g}"


def _reopens(memory: SleepMemory, session: Session) -> tuple[bool, str]:
    before = session.window.logits
    session.close()
    with memory.session("doctor", create=False) as again:
        after = again.window.logits
        same = again.window.ids == session.window.ids
    assert before is not None
    assert after is not None
    apart = float((before - after).abs().max())
    return same and apart <= RESTORED, f"the open window's logits differ by at most {apart:.2g}"


def _replays(memory: SleepMemory, session: Session) -> tuple[bool, str]:
    replayed = session.replay()
    equal = list(replayed) == list(session.state) and all(
        torch.equal(replayed[name], session.state[name]) for name in replayed
    )
    return equal, "the state computed from the event log is " + ("bit-equal" if equal else "NOT bit-equal")


_TESTS: dict[str, Test] = {
    "sleep": _sleeps,
    "reading in pieces": _chunked,
    "snapshot": _round_trip,
    "replay": _replays,
    "reopening": _reopens,
}
