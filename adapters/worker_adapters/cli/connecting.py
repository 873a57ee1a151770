"""The options of `connect()` on the command line: declared and read in one place, for every command that has a worker.

connecting.add(parser)                    # --engine, --url, and all the rest
with connecting.ready(args) as adapter:   # waits, where --wait was given
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from worker_adapters import (
    TLS,
    Adapter,
    FromEnv,
    FromFile,
    Identity,
    KeepAlive,
    Limits,
    Retry,
    Timeouts,
    connect,
    engine_names,
)
from worker_adapters.api.credentials import Credentials

from .parsing import count, positive, seconds

__all__ = ["adapter", "add", "add_shared", "options", "ready", "require_there"]

RECORDS: Mapping[str, Callable[..., Any]] = {
    "timeouts": Timeouts,
    "retry": Retry,
    "tls": TLS,
    "limits": Limits,
    "identity": Identity,
    "keepalive": KeepAlive,
}


@attrs.frozen
class Setting:
    """An option that is a field of one of the records."""

    flag: str
    record: str
    field: str
    text: str
    type: Callable[[str], Any] | None = None
    metavar: str | None = None

    @property
    def dest(self) -> str:
        """Where argparse puts it."""
        return f"{self.record}_{self.field}"


SETTINGS = (
    Setting("--connect-timeout", "timeouts", "connect", "until connected, TLS included; none: no limit", seconds),
    Setting("--first-token-timeout", "timeouts", "first_token", "until the first content, queueing included", seconds),
    Setting("--idle-timeout", "timeouts", "idle", "between contents", seconds),
    Setting("--probe-timeout", "timeouts", "probe", "of health, properties and version", float, "SECONDS"),
    Setting("--attempts", "retry", "attempts", "in all, before anything has come", int, "N"),
    Setting(
        "--retry-base",
        "retry",
        "base",
        "the first pause is drawn from up to that, each next from twice as much",
        positive,
    ),
    Setting("--retry-cap", "retry", "cap", "what no such pause exceeds", positive),
    Setting("--max-retry-after", "retry", "max_retry_after", "the longest that is waited for", float, "SECONDS"),
    Setting("--ca-bundle", "tls", "ca_bundle", "a PEM file of authorities, instead of the system's", None, "FILE"),
    Setting("--client-cert", "tls", "client_cert", "a PEM file to show to the server", None, "FILE"),
    Setting("--client-key", "tls", "client_key", "its key, if that is a file of its own", None, "FILE"),
    Setting("--server-hostname", "tls", "server_hostname", "the name that the certificate must be for", None, "NAME"),
    Setting("--max-in-flight", "limits", "max_in_flight", "streams at once", int, "N"),
    Setting("--hand-over", "limits", "hand_over", "events that wait for a slow reader", int, "N"),
    Setting("--max-event-size", "limits", "max_event_size", "of one event of the engine", int, "BYTES"),
    Setting("--max-error-body", "limits", "max_error_body", "of an engine's error that is read", int, "BYTES"),
    Setting("--max-probe-body", "limits", "max_probe_body", "of a probe's answer", int, "BYTES"),
    Setting("--max-collected", "limits", "max_collected", "of a text that is collected", int, "BYTES"),
    Setting("--stall", "limits", "stall", "after which a full hand-over that nobody reads counts as stuck", positive),
    Setting("--keepalive-idle", "keepalive", "idle", "of silence before TCP asks whether the peer is there", seconds),
    Setting("--keepalive-interval", "keepalive", "interval", "between two such questions", positive),
    Setting(
        "--keepalive-probes", "keepalive", "probes", "questions without an answer until it counts as gone", count, "N"
    ),
    Setting("--model-digest", "identity", "model_digest", "where the engine can't tell it", None, "DIGEST"),
    Setting("--engine-version", "identity", "engine_version", "where the engine can't tell it", None, "VERSION"),
    Setting("--trtllm-version", "identity", "trtllm_version", "where the engine can't tell it", None, "VERSION"),
)


def add(parser: argparse.ArgumentParser, engine: str | None = None, *, url_required: bool = True) -> None:
    """Declare all of them. `engine`: the default; without one it must be given."""
    worker = parser.add_argument_group("the worker")
    worker.add_argument("--engine", default=engine, required=engine is None, help=f"one of {', '.join(engine_names())}")
    worker.add_argument("--url", required=url_required, help="the engine's base URL, such as http://127.0.0.1:8080")
    add_shared(parser)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """All but --engine and --url, for commands that name several workers in a way of their own."""
    worker = parser.add_argument_group("how workers are reached")
    worker.add_argument("--model", help="the model, where the server has several")
    worker.add_argument("--wait", type=float, metavar="SECONDS", help="wait that long for the worker to be ready")
    key = worker.add_mutually_exclusive_group()
    key.add_argument("--credentials-env", metavar="NAME", help="environment variable that holds the API key")
    key.add_argument("--credentials-file", metavar="FILE", help="file that holds the API key")
    worker.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="NAME=ENV",
        help="a header of every request, and the environment variable that holds its value; may be given several times",
    )
    worker.add_argument(
        "--proxy", metavar="URL", help="an HTTP proxy to go through, such as http://user:password@proxy:3128"
    )
    worker.add_argument("--metrics-url", metavar="URL", help="where metrics are, on engines that have a port for them")
    worker.add_argument("--pool-id", default="default", help="a label of metrics and errors")
    worker.add_argument("--replica-id", help="another")
    worker.add_argument("--insecure", action="store_true", help="accept any TLS certificate")
    worker.add_argument(
        "--retry-status",
        type=int,
        action="append",
        default=[],
        metavar="STATUS",
        help="one more HTTP status that is tried again; may be given several times",
    )
    for one in SETTINGS:
        metavar = one.metavar or "SECONDS"
        # Which settings were given decides; what was not keeps the record's default.
        shown: dict[str, Any] = {"dest": one.dest, "metavar": metavar, "help": one.text, "default": argparse.SUPPRESS}
        worker.add_argument(one.flag, type=one.type or str, **shown)


def _header(text: str) -> tuple[str, str]:
    name, equals, variable = text.partition("=")
    if not (name and equals and variable):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=ENV, a header and the environment variable of its value"
        )
    return name, variable


def options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as keyword arguments of `connect()`. Raises ValueError for values that can't be right."""
    given: dict[str, dict[str, Any]] = {name: {} for name in RECORDS}
    for one in SETTINGS:
        if one.dest in args:
            given[one.record][one.field] = getattr(args, one.dest)
    if args.insecure:
        given["tls"]["verify"] = False
    if args.retry_status:
        given["retry"]["statuses"] = frozenset(args.retry_status)
    return {
        "model": args.model,
        "credentials": _credentials(args),
        "headers": {name: FromEnv(variable) for name, variable in args.header} or None,
        "proxy": args.proxy,
        "metrics_url": args.metrics_url,
        "pool_id": args.pool_id,
        "replica_id": args.replica_id,
        **{name: RECORDS[name](**fields) for name, fields in given.items() if fields},
    }


def _credentials(args: argparse.Namespace) -> Credentials | None:
    if args.credentials_env:
        return FromEnv(args.credentials_env)
    return FromFile(args.credentials_file) if args.credentials_file else None


def require_there(args: argparse.Namespace) -> None:
    """Raise ValueError for a file or a variable that is not there: the library, which asks with each request, fails that."""
    for name, variable in args.header:
        _require_set("--header", variable, f" (the value of {name})")
    if args.credentials_env:
        _require_set("--credentials-env", args.credentials_env)
    if args.credentials_file:
        _require_readable("--credentials-file", args.credentials_file)
    for one in SETTINGS:
        if one.metavar == "FILE" and one.dest in args:
            _require_readable(one.flag, getattr(args, one.dest))


def _require_set(flag: str, variable: str, what: str = "") -> None:
    if variable not in os.environ:
        raise ValueError(f"{flag}: the environment variable {variable} is not set{what}")


def _require_readable(flag: str, path: str) -> None:
    file = Path(path)
    if not file.exists():
        raise ValueError(f"{flag}: there is no file {path}")
    if file.is_dir():
        raise ValueError(f"{flag}: {path} is a directory")
    if not os.access(file, os.R_OK):
        raise ValueError(f"{flag}: {path} may not be read")


def adapter(args: argparse.Namespace, *, engine: str | None = None, url: str | None = None, **more: Any) -> Adapter:
    """An adapter for the worker of --engine and --url, or for the one that is named here. No I/O."""
    require_there(args)
    return connect(engine or args.engine, url or args.url, **(options(args) | more))


def ready(args: argparse.Namespace) -> Adapter:
    """The same, after the wait that was asked for. Raises WorkerError where it was in vain."""
    found = adapter(args)
    if args.wait is not None:
        try:
            found.wait_ready(args.wait)
        except BaseException:
            found.close()
            raise
    return found
