"""The model's part of ``agentsleep doctor``: it reads, sleeps and comes back, in an archive that is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from agentsleep.cli.checks import Check, Status
from agentsleep.conformance.subject import Lent, Subject, apart, bit_equal, read
from agentsleep.errors import AgentsleepError, UnsupportedModel
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.states import from_bytes

LINES = ("bob hands over to alice .", "the coffee is cold today .", "alice hands over to dave .")
_REINSTALL = "copy the checkpoint again (nap-mini: reinstall agentsleep); if that does not help, report it"
_OTHER = "give a model whose family docs/models.md has in its table; 'agentsleep conformance --model' tells more"
_PROBE = "'agentsleep probe --model' measures whether more than one pass helps"

Test = Callable[[Subject, SleepMemory, Session], tuple[bool, str]]


def selftest(model: str | Path | None) -> Iterator[Check]:
    """Loads the model and puts it through its paces; a test that raises is a failure, never a traceback."""
    try:
        subject = Subject.load(model, dtype="auto")
        memory = Lent(subject.backend)
    except Exception as error:  # whatever a broken installation raises is what the doctor is asked about
        yield _raised("load", error, _OTHER if isinstance(error, UnsupportedModel) else _REINSTALL)
        return
    with memory:
        yield from _known(model, memory)
        if memory.backend.report is not None and memory.backend.report.failed:
            return  # a session would refuse it
        session: Session | None = None
        try:
            session = memory.session("doctor")
            _read_and_sleep(session)
            yield from _tests(subject, memory, session)
        except Exception as error:
            yield _raised("sleep", error)
        finally:
            if session is not None:
                session.close()


def _known(model: str | Path | None, memory: SleepMemory) -> Iterator[Check]:
    """What loading has found: what the model is, how it was mended, and what its memory can do."""
    backend = memory.backend
    weights = sum(p.numel() for p in backend.model.parameters())
    name = "nap-mini" if model is None else str(model)
    about = f"{name}: {weights:,} weights, window {backend.settings.window}, passes {backend.settings.passes}"
    yield Check("model", "load", "ok", about)
    yield Check("model", "fingerprint", "ok", memory.fingerprint)
    if not backend.settings.trained:
        yield Check(
            "model", "training", "warn", f"it was not trained to sleep; passes {backend.settings.passes}", _PROBE
        )
    for repair in backend.repairs:
        yield Check("model", "repaired", "ok", repair)
    for verdict in backend.report.verdicts if backend.report is not None else ():
        remedy = _OTHER if verdict.status == "fail" else ""
        status: Status = "fail" if verdict.status == "fail" else "ok"
        yield Check("model", verdict.ability, status, verdict.text, remedy)


def _tests(subject: Subject, memory: SleepMemory, session: Session) -> Iterator[Check]:
    for title, test in _TESTS.items():
        try:
            fine, value = test(subject, memory, session)
        except Exception as error:
            yield _raised(title, error)
        else:
            yield Check("model", title, "ok" if fine else "fail", value, "" if fine else _REINSTALL)


def _raised(title: str, error: Exception, remedy: str = _REINSTALL) -> Check:
    kind = "" if isinstance(error, AgentsleepError) else f"{type(error).__name__}: "
    return Check("model", title, "fail", f"{kind}{error}"[:300], remedy)


def _read_and_sleep(session: Session) -> None:
    """Two light sleeps, a deep one, and an open window."""
    session.add("user", LINES[0])
    session.sleep()
    session.add("user", LINES[1])
    session.sleep(deep=True, rounds=1)
    session.add("user", LINES[2])


def _sleeps(subject: Subject, memory: SleepMemory, session: Session) -> tuple[bool, str]:
    stats = session.stats()
    fine = session.state.is_finite() and stats.norm > 0 and stats.snapshots == 3
    took = ", ".join(f"{snapshot.mode} {snapshot.metrics['ms']:.0f} ms" for snapshot in session.history())
    return fine, f"state of {stats.state_bytes:,} bytes, norm {stats.norm:.3g}; {took}"


def _chunked(subject: Subject, memory: SleepMemory, session: Session) -> tuple[bool, str]:
    """Reading token by token, in odd pieces and at once must come to the same."""
    ids = [token for line in LINES for token in memory.chat.message("user", line)]
    ids = ids[: memory.backend.settings.window]
    whole = read(memory.backend, session.state, ids)
    pieces = [read(memory.backend, session.state, ids, *[size] * (len(ids) // size)) for size in (1, 7)]
    error = max(apart(window.logits, whole.logits) for window in pieces)
    said = f"{len(ids)} tokens at once, one by one, in sevens: logits differ by at most {error:.2g} of the largest"
    return error <= subject.tolerance, said


def _round_trip(subject: Subject, memory: SleepMemory, session: Session) -> tuple[bool, str]:
    head = session.head
    assert head is not None
    error = max(from_bytes(session.archive.load_state(head.id)).diff(session.state).values())
    return error == 0, f"{head.state_bytes:,} bytes in chunks, largest difference {error:g}"


def _reopens(subject: Subject, memory: SleepMemory, session: Session) -> tuple[bool, str]:
    before = session.window.logits
    session.close()
    with memory.session("doctor", create=False) as again:
        error = apart(again.window.logits, before)
        same = again.window.ids == session.window.ids
    return same and error <= subject.tolerance, f"the open window's logits differ by at most {error:.2g} of the largest"


def _replays(subject: Subject, memory: SleepMemory, session: Session) -> tuple[bool, str]:
    equal = bit_equal(session.replay(), session.state)
    return equal, "the state computed from the event log is " + ("bit-equal" if equal else "NOT bit-equal")


_TESTS: dict[str, Test] = {
    "sleep": _sleeps,
    "reading in pieces": _chunked,
    "snapshot": _round_trip,
    "replay": _replays,
    "reopening": _reopens,
}
