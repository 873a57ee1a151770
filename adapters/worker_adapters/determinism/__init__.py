"""What makes the same request give the same answer; pure functions."""

from __future__ import annotations

from .detokenise import TextAssembler
from .profile import sampling_fields
from .seeds import derive_seed

__all__ = ["TextAssembler", "derive_seed", "sampling_fields"]
