"""Says which database holds which table: the ledger's own tables may live apart from the rest."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections

LEDGER_TABLES = frozenset(
    {
        "budgetwindow",
        "reservation",
        "usagerecord",
        "spendrollup",
        "capacityhour",
        "closingbalance",
        "prunedperiod",
        "idempotentrequest",
        "experimenthour",
        "experimentlatency",
        "feedback",
    }
)


def ledger_file() -> Path:
    """The ledger's SQLite file. What processes lock lies beside it, so that all who share it meet there."""
    connection = connections[settings.LEDGER_DATABASE]
    assert connection.vendor == "sqlite"
    return _resolved(connection.settings_dict["NAME"])


@lru_cache(maxsize=4)
def _resolved(name: str | Path) -> Path:
    """Asked for at each transaction of the ledger: following links takes longer than its lock."""
    return Path(name).resolve()


class LedgerRouter:
    """Django's database router (https://docs.djangoproject.com/en/5.2/topics/db/multi-db/)."""

    def db_for_read(self, model: Any, **_hints: Any) -> str | None:
        return self._database(model._meta.app_label, model._meta.model_name)

    def db_for_write(self, model: Any, **_hints: Any) -> str | None:
        return self._database(model._meta.app_label, model._meta.model_name)

    def allow_relation(self, _first: Any, _second: Any, **_hints: Any) -> bool | None:
        return None

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **_hints: Any
    ) -> bool | None:
        if settings.LEDGER_DATABASE == "default":
            return None
        is_ledger = app_label == "billing" and model_name in LEDGER_TABLES
        return is_ledger == (db == settings.LEDGER_DATABASE)

    def _database(self, app_label: str, model_name: str) -> str | None:
        is_ledger = app_label == "billing" and model_name in LEDGER_TABLES
        return str(settings.LEDGER_DATABASE) if is_ledger else None
