"""What went wrong on the wire, in words: from an exception to a Fault that names who is meant and what may be done."""

from __future__ import annotations

import socket
import ssl

from ..api import Reason, Timeouts, Upstream
from ..codec import BodyError, CutOffError
from ..dialect import Fault
from ..helpers import NO_DESCRIPTORS, has_descriptors
from ..lifetime import Cause
from .head import HeadError

__all__ = ["BROKEN", "PROXY_AUTH", "broken_body", "no_response", "refused_by_proxy", "too_late"]

BROKEN = (CutOffError, BodyError, OSError, ValueError)  # what a body may end with, other than its end
PROXY_AUTH = 407


def too_late(cause: Cause, timeouts: Timeouts, where: str) -> Fault:
    """Why a control call ended early; closing the transport ends it, too."""
    if cause is Cause.CONNECT_TIMEOUT:
        return Fault(Reason.CONNECT_TIMEOUT, f"no connection to {where} within {timeouts.connect:g} s")
    return Fault(Reason.CONNECT_TIMEOUT, f"{where} did not answer within {timeouts.probe:g} s")


def refused_by_proxy(proxy: str) -> Fault:
    """What a 407 means, which only a proxy answers."""
    return Fault(
        Reason.UPSTREAM_AUTH,
        f"{proxy} wants to be told who asks (407): give its user and password in proxy=",
        upstream=Upstream(status=PROXY_AUTH),
    )


def no_response(exc: BaseException, where: str) -> Fault:
    """What went wrong before a response head had come."""
    # A look-up that fails for want of a descriptor says that the name is not known.
    if isinstance(exc, OSError) and (
        exc.errno in NO_DESCRIPTORS or (isinstance(exc, socket.gaierror) and not has_descriptors())
    ):
        return Fault(Reason.LOCAL_LIMIT, f"the process has no descriptor left for a connection to {where}")
    if isinstance(exc, socket.gaierror):
        return Fault(Reason.CONNECT, f"the name in {where} can't be resolved: {exc.strerror}")
    if isinstance(exc, ssl.SSLError):
        return Fault(Reason.CONNECT, f"TLS with {where} failed, check tls= and the certificate: {exc}")
    if isinstance(exc, ConnectionRefusedError):
        return Fault(Reason.CONNECT, f"{where} refused the connection: is the server running there?")
    if isinstance(exc, FileNotFoundError) and where.startswith("unix:"):
        return Fault(Reason.CONNECT, f"there is no socket at {where}: is the server running there?")
    if isinstance(exc, ConnectionError):
        return Fault(Reason.DISCONNECTED, f"{where} closed the connection before it had answered")
    if isinstance(exc, HeadError):
        return Fault(Reason.PROTOCOL, f"{where} does not answer in HTTP ({exc}): is the port right?")
    return Fault(Reason.CONNECT, f"no connection to {where}: {exc}")


def broken_body(exc: Exception) -> Fault:
    """What went wrong in the middle of a body."""
    if isinstance(exc, CutOffError):
        return Fault(Reason.TRUNCATED, "the body was cut off before its end")
    if isinstance(exc, OSError):
        return Fault(Reason.DISCONNECTED, f"the connection was lost in the middle of the body: {exc}")
    return Fault(Reason.PROTOCOL, f"the body is not valid HTTP: {exc}")
