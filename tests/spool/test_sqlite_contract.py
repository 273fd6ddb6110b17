from __future__ import annotations

from .contract import SpoolContract
from .operator_contract import OperatorContract


class TestSqliteSpool(SpoolContract):
    """The spool's contract, on SQLite."""


class TestSqliteOperator(OperatorContract):
    """The operator's contract, on SQLite."""
