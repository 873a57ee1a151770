"""HTTP servers that speak each engine's wire byte for byte, from a seeded token source, with scripted faults."""

from __future__ import annotations

from ..faults import KINDS, FaultSpec, parse
from .drift import Drift
from .exchange import Split, random_cuts
from .registry import ENGINES, engine_names
from .server import Simulator
from .slots import State
from .source import DEFAULT_VOCABULARY, Ask, ScriptedSource, Token, TokenSource, Vocabulary, WordSource

__all__ = [
    "DEFAULT_VOCABULARY",
    "ENGINES",
    "KINDS",
    "Ask",
    "Drift",
    "FaultSpec",
    "ScriptedSource",
    "Simulator",
    "Split",
    "State",
    "Token",
    "TokenSource",
    "Vocabulary",
    "WordSource",
    "engine_names",
    "parse",
    "random_cuts",
]
