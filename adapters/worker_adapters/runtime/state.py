"""The running state of one stream, shared by its layers; the caller's handle is another object and may be dropped."""

from __future__ import annotations

import attrs

from ..api import End, Error, FinishReason, FinishReasonSource, GenerateRequest, Started
from ..dialect import Tally
from ..lifetime import Lifetime

__all__ = ["StreamState"]


@attrs.define(eq=False)
class StreamState:
    """Written by the thread that runs the stream, but for `delivered`; the caller's reads `tally` and `started`.

    `request` is resolved: it has a seed, and the adapter's model if it named none. Times are points on the lifetime's
    clock.
    """

    request: GenerateRequest
    lifetime: Lifetime
    submitted_at: float
    tally: Tally = attrs.field(factory=Tally)
    attempts: int = 0
    started: Started | None = None
    tokens_seen: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    blocked_seconds: float = 0.0
    terminal: End | Error | None = None
    reported_in: int = 0  # tokens that the counters hold already
    reported_out: int = 0
    progress_due: float = 0.0  # when to bring them up to date
    delivered: bool = False  # the consumer has its terminal event: nothing is left to cancel

    def tokens_out(self) -> int:
        """Tokens received so far: the engine's count where it gives one, else Token events."""
        return max(self.tally.tokens_out, self.tokens_seen)

    def decode_ms(self) -> float:
        """Milliseconds since the first Token; 0 without one."""
        return 0.0 if self.first_token_at is None else (self.lifetime.clock() - self.first_token_at) * 1000

    def cancelled(self) -> End:
        """The end of a stream that its caller cancelled."""
        return End(
            finish_reason=FinishReason.CANCELLED,
            finish_reason_source=FinishReasonSource.INFERRED,
            tokens_out=self.tokens_out(),
            tokens_in=self.tally.tokens_in,
            usage_source=self.tally.usage_source,
            decode_time_ms=self.decode_ms(),
        )
