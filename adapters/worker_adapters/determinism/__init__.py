"""What makes the same request give the same answer; pure functions."""

from __future__ import annotations

from .detokenise import TextAssembler
from .key import DeterminismKey, determinism_key
from .profile import sampling_fields
from .seeds import derive_seed

__all__ = ["DeterminismKey", "TextAssembler", "derive_seed", "determinism_key", "sampling_fields"]
