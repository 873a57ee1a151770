"""Nothing here may leave a thread, a socket or a descriptor behind. Certificates for those who need some."""

from __future__ import annotations

import ssl

import attrs
import pytest
import trustme

from worker_adapters import TLS

from ..leaks import leaves_nothing
from .servers import Server

__all__ = ["leaves_nothing"]


@attrs.frozen
class Certificates:
    ca: str
    cert: str
    key: str


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A CA, and a certificate of it for 127.0.0.1 and engine.internal."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "engine.internal")
    files = Certificates(*(str(folder / name) for name in ("ca.pem", "server.pem", "server.key")))
    authority.cert_pem.write_to_path(files.ca)
    issued.private_key_pem.write_to_path(files.key)
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(files.cert, append=number > 0)
    return files


@pytest.fixture
def context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    return context


@pytest.fixture(params=["plain", "tls"])
def wire(request):
    """Plain, and with TLS: what makes a server, and the settings of an adapter that trusts it."""
    if request.param == "plain":
        return Server, {}
    context = request.getfixturevalue("context")
    certificates = request.getfixturevalue("certificates")
    return lambda serve: Server(serve, tls=context), {"tls": TLS(ca_bundle=certificates.ca)}
