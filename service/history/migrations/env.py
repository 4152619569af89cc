"""Runs the migrations on the connection, and in the transaction, of `service.history.database.migrate`."""

from alembic import context

from service.history.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
