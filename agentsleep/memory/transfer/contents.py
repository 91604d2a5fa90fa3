"""What the file of an exported thread says, as values; none of it is believed before it is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from agentsleep.archive import Event, Scope, Snapshot, TensorBytes
from agentsleep.archive.chunks import SplitState
from agentsleep.errors import CheckpointDamaged, InputError
from agentsleep.memory.states import to_bytes
from agentsleep.memory.transfer.records import Fields, events_of, snapshots_of
from agentsleep.memory.transfer.threadfile import MANIFEST, ThreadFile, state_name
from agentsleep.state import FastWeights


class Contents:
    """Whose thread it is, and of which model; after :meth:`read`, its log and its snapshots.

    Args:
        tenant, user: whose the snapshots become.

    Raises:
        InputError: the manifest does not tell.
    """

    events: Sequence[Event] = ()
    snapshots: Sequence[Snapshot] = ()

    def __init__(self, file: ThreadFile, tenant: str, user: str) -> None:
        self._file, self._tenant, self._user = file, tenant, user
        self._fields = Fields(f"{file.source}: {MANIFEST}", file.manifest)
        scope = Fields(f"{self._fields.what}: scope", self._fields.mapping("scope"))
        self.scope = Scope(tenant=scope.name("tenant"), user=scope.name("user"), thread=scope.name("thread"))
        self.fingerprint = self._fields.name("fingerprint")
        self.settings = self._fields.mapping("settings")

    @property
    def stored(self) -> list[Snapshot]:
        """The snapshots whose states are in the file."""
        return [one for one in self.snapshots if one.status == "stored"]

    def read(self) -> None:
        """Reads everything but the states.

        Raises:
            InputError: the log or a snapshot is damaged, or they do not fit together.
        """
        what = self._fields.what
        with closing(self._file.lines()) as lines:
            self.events = events_of(lines)
        if len(self.events) != self._fields.whole("events"):
            raise InputError(f"{what} tells of {self._fields.whole('events')} events, the log has {len(self.events)}")
        entries = ((f"{what}: snapshot {i}", entry) for i, entry in enumerate(self._fields.items("snapshots")))
        self.snapshots = snapshots_of(
            entries, self.events, tenant=self._tenant, user=self._user, fingerprint=self.fingerprint
        )
        if self._file.states != {state_name(one.id) for one in self.stored}:
            raise self._file.damaged(MANIFEST, "lists other states than those that are there")
        if self.snapshots and self.snapshots[-1].status != "stored":
            raise self._file.damaged(state_name(self.snapshots[-1].id), "is the newest state, and missing")

    def state(self, snapshot: Snapshot) -> list[TensorBytes]:
        """A state, checked against its SHA-256 and against the snapshot's digest.

        Raises:
            SnapshotDamaged: it is not what was exported.
        """
        name = state_name(snapshot.id)
        try:
            tensors = to_bytes(FastWeights.load(self._file.read(name)))
            split = SplitState(tensors)
        except (CheckpointDamaged, InputError, KeyError) as error:
            raise self._file.damaged(name, f"is no state ({error})") from error
        if (split.digest, split.bytes) != (snapshot.state_digest, snapshot.state_bytes):
            raise self._file.damaged(name, "holds other tensors than the snapshot's digest says")
        return tensors


class States(Mapping[str, Sequence[TensorBytes]]):
    """States that are read from the file, and verified again, when they are asked for: one at a time in memory.

    Args:
        snapshots: by the ids that they are asked for.
    """

    def __init__(self, contents: Contents, snapshots: Mapping[str, Snapshot]) -> None:
        self._contents, self._snapshots = contents, snapshots

    def __getitem__(self, snapshot_id: str) -> Sequence[TensorBytes]:
        return self._contents.state(self._snapshots[snapshot_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshots)

    def __len__(self) -> int:
        return len(self._snapshots)
