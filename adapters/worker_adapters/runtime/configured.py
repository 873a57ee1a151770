"""What can be wrong in a call of `connect()`, said with the argument's name and what is meant by it.

No value is quoted that may be a secret, or hold one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..api import TLS, Identity, InvalidRequestError, Limits, MetricsOptions, Retry, TelemetryOptions, Timeouts
from ..api.errors import invalid
from ..dialect import Dialect

__all__ = ["require_configured", "require_timeouts"]

LONGEST = 1024  # characters of a name
_RECORDS: Mapping[str, tuple[type, str]] = {
    "timeouts": (Timeouts, "Timeouts(idle=60)"),
    "retry": (Retry, "Retry(attempts=3)"),
    "tls": (TLS, "TLS(verify=False)"),
    "limits": (Limits, "Limits(max_in_flight=16)"),
    "identity": (Identity, "Identity(model_digest=…)"),
    "metrics": (MetricsOptions, "MetricsOptions(registry=…)"),
    "telemetry": (TelemetryOptions, "TelemetryOptions()"),
}


def require_configured(engine: Any, given: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError for the first that is of no use. `given`: the arguments by name; None: not given."""
    named = engine.name if isinstance(engine, Dialect) else engine if isinstance(engine, str) else ""
    pool_id = given["pool_id"] if _is_name(given["pool_id"]) else ""  # in errors it stands as it is

    def refused(message: str) -> InvalidRequestError:
        shown = "" if "://" in named else named
        return invalid(message, engine=shown, pool_id=pool_id)

    if not isinstance(engine, str | Dialect):
        raise refused(f"engine must be a name such as 'vllm', or a Dialect, got {_shown(engine)}")
    if isinstance(engine, str) and "://" in engine:
        raise refused("engine must be a name such as 'vllm', and the URL comes after it: connect(engine, url)")
    if why := _no_url(given["url"]):
        raise refused(f"url can't be used: {why}; expected something like http://10.0.0.7:8000")
    if given["metrics_url"] is not None and (why := _no_url(given["metrics_url"])):
        raise refused(f"metrics_url can't be used: {why}; expected something like http://10.0.0.7:8002/metrics")
    for name in ("pool_id", "replica_id", "model"):
        value = given[name]
        if (value is not None or name == "pool_id") and not _is_name(value):
            got = ascii(value[:32]) if isinstance(value, str) else _shown(value)
            raise refused(f"{name} must be a line of printable text, of at most {LONGEST} characters, got {got}")
    for name, (kind, such) in _RECORDS.items():
        if given[name] is not None and not isinstance(given[name], kind):
            raise refused(f"{name} must be a {kind.__name__} such as {such}, got {_shown(given[name])}")
    registry = None if given["metrics"] is None else given["metrics"].registry
    if registry is not None and not callable(getattr(registry, "register", None)):
        raise refused(f"metrics must have a registry of prometheus_client's, got {_shown(registry)}")
    if why := _no_credentials(given["credentials"]):
        raise refused(f"credentials must be a key as text, FromEnv(name), FromFile(path) or a function: {why}")


def require_timeouts(timeouts: Any) -> None:
    """The same for those of one call."""
    if timeouts is not None and not isinstance(timeouts, Timeouts):
        raise invalid(f"timeouts must be a Timeouts such as {_RECORDS['timeouts'][1]}, got {_shown(timeouts)}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable()


_host = re.compile(r"[\w.:\[\]-]{1,100}(?:/[\w./-]{0,100})?").fullmatch


def _no_url(value: Any) -> str:
    if not isinstance(value, str):
        return f"got {_shown(value)}"
    if "://" in value:
        return ""
    if value[:5].lower() == "unix:":
        return "a Unix socket is written unix:///run/engine.sock"
    host = value if _host(value) and not value.startswith(("http:", "https:")) else ""
    return f"did you mean http://{host}?" if host else "it must begin with http:// or https://"


def _no_credentials(value: Any) -> str:
    if value is None or callable(value):
        return ""
    if not isinstance(value, str):
        return f"got a {type(value).__name__}"
    good = value.isascii() and value.isprintable() and value.strip()
    return "" if good else "this one is empty, or not printable ASCII (a line break at its end?)"


def _shown(value: Any) -> str:
    if isinstance(value, bool | int | float | None):
        return repr(value)
    return f"a {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"
