"""What went wrong on the wire, in words: from an exception to a Fault that names who is meant and what may be done."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping

from ..api import Reason, Timeouts, Upstream
from ..codec import BodyError, CutOffError
from ..dialect import Fault
from ..helpers import NO_DESCRIPTORS, has_descriptors
from ..lifetime import Cause
from .head import HeadError

__all__ = ["BROKEN", "broken_body", "in_words", "is_proxys_own", "no_response", "refused_by_proxy", "too_late"]

BROKEN = (CutOffError, BodyError, OSError, ValueError)  # what a body may end with, other than its end
PROXY_AUTH = 407
_REFUSALS = {401: Reason.UPSTREAM_AUTH, 403: Reason.UPSTREAM_AUTH, 407: Reason.UPSTREAM_AUTH, 429: Reason.OVERLOADED}
_REFUSALS |= {405: Reason.UNSUPPORTED, 501: Reason.UNSUPPORTED}
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})
_noise = re.compile(r"^\[Errno \d+\] | \(_ssl\.c:\d+\)$")
_error = re.compile(r";\s*error\s*=", re.IGNORECASE)
_programs = re.compile(r"(squid|tinyproxy|privoxy|3proxy|mitmproxy)\b", re.IGNORECASE)


def too_late(cause: Cause, timeouts: Timeouts, where: str) -> Fault:
    """Why a control call ended early; closing the transport ends it, too."""
    if cause is Cause.CONNECT_TIMEOUT:
        return Fault(Reason.CONNECT_TIMEOUT, f"no connection to {where} within {timeouts.connect:g} s")
    if cause is Cause.CANCELLED:
        return Fault(Reason.ADAPTER_CLOSED, "the adapter was closed")
    return Fault(Reason.CONNECT_TIMEOUT, f"{where} did not answer within {timeouts.probe:g} s")


def refused_by_proxy(status: int, headers: Mapping[str, str], what: str, said: str | None = None) -> Fault:
    """A proxy's own refusal. That it can't reach the worker (502, 504), or is at a loss, is a failure to connect."""
    reason = Reason.REDIRECT if 300 <= status < 400 else _REFUSALS.get(status, Reason.CONNECT)
    wait = headers.get("retry-after", "")
    hint = ": give its user and password in proxy=" if status == PROXY_AUTH else ""
    return Fault(
        reason,
        f"{what} with {status}{hint}",
        upstream=Upstream(status=status, message=said),
        retry_after=float(wait) if re.fullmatch("[0-9]{1,5}", wait) else None,
    )


def is_proxys_own(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer that came by way of a proxy was made by that, as far as it says so.

    407 and what belongs to it; an error in RFC 9209's words; Squid's, which names it; and the name of a program that is
    nothing but a forward proxy, where a worker's would stand.
    """
    return status == PROXY_AUTH or (
        status >= 400
        and (
            "proxy-authenticate" in headers
            or "x-squid-error" in headers
            or _error.search(headers.get("proxy-status", "")) is not None
            or _programs.match(headers.get("server", "")) is not None
        )
    )


def in_words(exc: BaseException) -> str:
    """Without the line of CPython's source that ssl adds, and the number of an error that has words."""
    return _noise.sub("", str(exc))


def _no_tls(exc: ssl.SSLError, where: str) -> str:
    hint = ", check tls= and the certificate"
    if isinstance(exc, ssl.SSLEOFError):
        hint = ", it closed the connection in the handshake: does it speak TLS, or want a certificate in tls="
    elif getattr(exc, "reason", None) in NOT_TLS:  # of one that OpenSSL has made
        hint = ", what answers does not speak TLS: is it http://, or another port"
    return f"TLS with {where} failed{hint}: {in_words(exc)}"


def no_response(exc: BaseException, where: str) -> Fault:
    """What went wrong before a response head had come."""
    # A look-up that fails for want of a descriptor says that the name is not known; beside nss-mdns, that something is busy.
    if isinstance(exc, OSError) and (
        exc.errno in NO_DESCRIPTORS
        or ((isinstance(exc, socket.gaierror) or exc.errno == errno.EBUSY) and not has_descriptors())
    ):
        return Fault(Reason.LOCAL_LIMIT, f"the process has no descriptor left for a connection to {where}")
    if isinstance(exc, socket.gaierror):
        return Fault(Reason.CONNECT, f"the name in {where} can't be resolved: {exc.strerror}")
    if isinstance(exc, ssl.SSLError):
        return Fault(Reason.CONNECT, _no_tls(exc, where))
    if isinstance(exc, ConnectionRefusedError):
        return Fault(Reason.CONNECT, f"{where} refused the connection: is the server running there?")
    if isinstance(exc, FileNotFoundError) and where.startswith("unix:"):
        return Fault(Reason.CONNECT, f"there is no socket at {where}: is the server running there?")
    if isinstance(exc, ConnectionError):
        return Fault(Reason.DISCONNECTED, f"{where} closed the connection before it had answered")
    if isinstance(exc, HeadError):
        return Fault(Reason.PROTOCOL, f"{where} does not answer in HTTP ({exc}): is the port right?")
    return Fault(Reason.CONNECT, f"no connection to {where}: {in_words(exc)}")


def broken_body(exc: Exception) -> Fault:
    """What went wrong in the middle of a body."""
    if isinstance(exc, CutOffError):
        return Fault(Reason.TRUNCATED, "the body was cut off before its end")
    if isinstance(exc, OSError):
        return Fault(Reason.DISCONNECTED, f"the connection was lost in the middle of the body: {in_words(exc)}")
    return Fault(Reason.PROTOCOL, f"the body is not valid HTTP: {exc}")
