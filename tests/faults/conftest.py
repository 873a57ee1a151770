"""Nothing here may leave a thread, a socket or a descriptor behind. Certificates for those who need some."""

from __future__ import annotations

from ..leaks import leaves_nothing
from ..transport.conftest import certificates, context

__all__ = ["certificates", "context", "leaves_nothing"]
