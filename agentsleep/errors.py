"""Everything that agentsleep raises on purpose.

    AgentsleepError
    ├── InputError (also ValueError)      a value that the caller can mend
    │   ├── MessageTooLong                a message that no window can hold
    │   ├── EmptyMessage
    │   └── SettingsError                 passes, rounds, policy, ... out of range
    ├── ModelError
    │   ├── CheckpointMissing
    │   ├── CheckpointDamaged
    │   ├── UnsupportedModel              a model whose memory would be wrong, or that has none
    │   └── FingerprintMismatch           a state that belongs to another model
    ├── SleepFailed                       a sleep gave NaN, Inf or nothing; the old state stays
    ├── ToolError
    │   ├── ToolFailed                    the tool raised
    │   ├── ToolTimeout                   the tool did not return in time
    │   └── UnknownTool
    └── ArchiveError
        ├── ArchiveDamaged                the database file is not readable
        ├── ArchiveFull                   no space left; nothing was acknowledged
        ├── SnapshotNotFound
        ├── SnapshotDamaged               a stored state fails its digest, or speaks otherwise than when it was stored
        ├── SnapshotPruned                retention took the state away; the log can compute it again
        ├── SnapshotConflict              the head moved under the writer
        ├── SessionNotFound
        ├── SessionBusy                   another writer holds the session
        └── SessionClosed                 it was closed in this program

Each message says what was wrong, with what value, and what to do. Of what is merely to be known it warns:

    UserWarning
    └── UntrainedSleep                    a model that was never trained to sleep
"""

from __future__ import annotations


class AgentsleepError(Exception):
    """Root of the tree: catches all that agentsleep raises on purpose."""


class InputError(AgentsleepError, ValueError):
    """A value that the caller can mend."""


class MessageTooLong(InputError):
    """A message that does not fit into what a window leaves free."""


class EmptyMessage(InputError):
    """A message without text."""


class SettingsError(InputError):
    """A setting out of its range."""


class ModelError(AgentsleepError):
    """The model, or its checkpoint, cannot be used."""


class CheckpointMissing(ModelError):
    """No checkpoint at the given place."""


class CheckpointDamaged(ModelError):
    """A checkpoint that cannot be read."""


class UnsupportedModel(ModelError):
    """A model that cannot sleep: it has no fast weights, or would carry them on wrongly."""


class FingerprintMismatch(ModelError):
    """A state that another model wrote."""


class SleepFailed(AgentsleepError):
    """A sleep whose result is not usable; the state from before it stays in place."""


class ToolError(AgentsleepError):
    """A tool call that gave no result."""


class ToolFailed(ToolError):
    """The tool raised an exception."""


class ToolTimeout(ToolError):
    """The tool did not return in time."""


class UnknownTool(ToolError):
    """The model called a tool that was not offered."""


class ArchiveError(AgentsleepError):
    """The archive could not read or write."""


class ArchiveDamaged(ArchiveError):
    """The database file is damaged or is no database."""


class ArchiveFull(ArchiveError):
    """The disk, or the database's page limit, is full; what was not acknowledged is not stored."""


class SnapshotNotFound(ArchiveError):
    """No snapshot of this id in this scope."""


class SnapshotDamaged(ArchiveError):
    """The stored bytes of a snapshot do not match their digest."""


class SnapshotPruned(ArchiveError):
    """The state was taken away by retention; its log is still there."""


class SnapshotConflict(ArchiveError):
    """The session's head is not the one that the writer started from."""


class SessionNotFound(ArchiveError):
    """No session of this name in this scope."""


class SessionBusy(ArchiveError):
    """Another writer holds the session."""


class SessionClosed(ArchiveError):
    """The session object was closed, or belongs to another process; open it again."""


class UntrainedSleep(UserWarning):
    """A model that was never trained to sleep; what further passes do to it is not known until it is measured."""
