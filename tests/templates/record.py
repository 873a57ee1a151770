"""What transformers makes of the styles, recorded: `python -m tests.templates.record`; needs the extra `templates-check`.

The fast test compares ours with the record; `make templates` compares the record with the transformers that is installed.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from .styles import CONVERSATIONS, SPECIAL, STYLES

PATH = Path(__file__).parent / "transformers.json"
NOW = datetime(2026, 2, 3, 4, 5, 6)  # noqa: DTZ001  -- as transformers has it


class _Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def rendered() -> dict[str, Any]:
    """By style and conversation the prompt; None where transformers raises."""
    from transformers.utils import chat_template_utils as utils  # noqa: PLC0415  -- heavy, and not of every test run

    kept, utils.datetime = utils.datetime, _Clock
    try:
        return {
            style: {name: _one(utils, text, given) for name, given in CONVERSATIONS.items()}
            for style, text in STYLES.items()
        }
    finally:
        utils.datetime = kept


def _one(utils: Any, text: str, given: dict[str, Any]) -> str | None:
    settings = {"add_generation_prompt": True, "tools": None, "documents": None, **SPECIAL, **given}
    messages = settings.pop("messages")
    try:
        prompts, _ = utils.render_jinja_template(conversations=[messages], chat_template=text, **settings)
    except Exception:  # noqa: BLE001  -- whatever the template makes it raise
        return None
    return prompts[0]


def main() -> None:
    from transformers import __version__  # noqa: PLC0415  -- as above

    record = {"transformers": __version__, "prompts": rendered()}
    PATH.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
