"""What Alembic runs for every command: migrate over the connection that `agentsleep.archive.migrate` holds."""

from __future__ import annotations

from alembic import context

from agentsleep.archive.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_object=context.config.attributes["include_object"],
    compare_type=True,
    # Whoever holds the connection has begun the transaction, and ends it.
    transactional_ddl=False,
)
context.run_migrations()
