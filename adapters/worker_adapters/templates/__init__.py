"""Chat templates: from messages to the prompt that a model was trained on, rendered on our side for every engine alike."""

from __future__ import annotations

from .chat import ChatTemplate
from .limits import TemplateError, TemplateLimits

__all__ = ["ChatTemplate", "TemplateError", "TemplateLimits"]
