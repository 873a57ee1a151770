"""Whether a worker would take a request, where a gateway hides the routes that would tell whose it is. Pure."""

from __future__ import annotations

from .dialect import Probe, WireRequest

__all__ = ["HIDDEN", "unfit_if_hidden"]

HIDDEN = frozenset({403, 404, 405, 501})
"""What a gateway answers for a route that it does not let through; and another engine's server for one that it has not."""
_REFUSED = frozenset({400, 415, 422})


def unfit_if_hidden(generate: str, hidden: str) -> Probe[str]:
    """Ask for nothing where requests will go. "" if that is refused by the rules of an engine, else why it is not ready.

    So the route is there, and takes the key; nothing is generated.
    """
    headers = {"Content-Type": "application/json"}
    reply = yield WireRequest(method="POST", target=generate, headers=headers, body=b"{}")
    said = reply.body.lstrip()
    # llama-server has answered 500 to a prompt that is missing.
    if not said.startswith(b"<") and (reply.status in _REFUSED or (reply.status == 500 and b"prompt" in said)):
        return ""
    return f"{hidden} is not there, and {generate} answers {reply.status}: is this the engine's base URL?"
