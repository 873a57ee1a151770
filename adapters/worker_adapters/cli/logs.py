"""The library's log on standard error: `--log-level`, and `--log-json` for machines. Off unless asked for."""

from __future__ import annotations

import argparse
import json
import logging
from datetime import UTC, datetime

__all__ = ["JSONFormatter", "add", "configure"]

LEVELS = ("debug", "info", "warning", "error")
_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JSONFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and what the library adds to it; null is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _ATTRIBUTES and value is not None}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the two, wherever on the command line they stand."""
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default=argparse.SUPPRESS,
        help="log to standard error: info has a line per stream and retry, debug one per phase",
    )
    parser.add_argument(
        "--log-json", action="store_true", default=argparse.SUPPRESS, help="log in JSON, one object a line"
    )


def configure(args: argparse.Namespace) -> None:
    """Set the log up as it was asked for."""
    as_json = getattr(args, "log_json", False)
    level = getattr(args, "log_level", "info" if as_json else None)
    if level is None:
        return
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JSONFormatter() if as_json else text)
    log = logging.getLogger("worker_adapters")
    log.setLevel(level.upper())
    log.addHandler(handler)
