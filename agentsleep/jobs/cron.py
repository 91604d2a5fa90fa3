"""Doing something at times of the clock, as crontab names them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType

from agentsleep.errors import SettingsError


class Cron:
    """Calls a function at given times, in a thread of its own, while it is entered.

    Args:
        expression: five fields, minute, hour, day, month and weekday: "0 3 * * *" is at three each night.
        action: what is called; a time that comes while it still works is left out.

    Raises:
        SettingsError: APScheduler is not installed, or the expression is none.
    """

    def __init__(self, expression: str, action: Callable[[], object]) -> None:
        try:
            from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]
            from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]
        except ImportError as error:
            raise SettingsError(
                f"times of the clock need APScheduler, which cannot be imported ({error}); "
                "pip install 'agentsleep[cron]'"
            ) from error
        self._scheduler = BackgroundScheduler(daemon=True)
        try:
            trigger = CronTrigger.from_crontab(expression, timezone=self._scheduler.timezone)
        except ValueError as error:
            raise SettingsError(
                f"{expression!r} is no time of the clock ({error}); give minute, hour, day, month and weekday, as in "
                "'0 3 * * *'"
            ) from error
        # A machine that slept through a time does what it missed, once.
        self._job = self._scheduler.add_job(action, trigger, coalesce=True, max_instances=1, misfire_grace_time=None)

    @property
    def next_time(self) -> datetime | None:
        """When it calls next; None before it is entered, or where the expression names no day that will come."""
        return getattr(self._job, "next_run_time", None)

    def __enter__(self) -> Cron:
        self._scheduler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scheduler.shutdown(wait=True)
