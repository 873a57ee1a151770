"""docs/errors/: a page for each code and each reason, written from the table that `worker-adapters explain` shows.

python -m tests.docs.errors        # writes them
"""

from __future__ import annotations

from pathlib import Path

from worker_adapters import ErrorCode, Reason, http_status
from worker_adapters.api.errors import code_of, is_retriable
from worker_adapters.cli.explanations import CODES, REASONS, Explanation

from .pages import ROOT

FOLDER = ROOT / "docs" / "errors"
WRITTEN = "<!-- Written by python -m tests.docs.errors from adapters/worker_adapters/cli/explanations.py. -->\n"
RAISED = """# Errors

`Error` events and `WorkerError` carry the same envelope: `code` is what an orchestrator acts on, `reason` what an operator
looks for, and each has a page here that says what happened and what to do. `worker-adapters explain CODE/REASON` prints it.

```python
try:
    text = adapter.generate(GenerateRequest(prompt="Once upon a time", max_tokens=8)).text
except WorkerError as error:
    again = error.retriable  # advice: perhaps on another worker
    print(error.code, error.reason, error.message, error.error.upstream, error.partial)
```

"""
JUDGED = {Reason.UNSUPPORTED: ErrorCode.INVALID_PARAMS}  # what we say before anything is sent, with another code


def codes_of(reason: Reason) -> tuple[ErrorCode, ErrorCode]:
    """Before the first token, and after."""
    return code_of(reason, started=False)[0], code_of(reason, started=True)[0]


def pages() -> dict[Path, str]:
    """All of them, by their place."""
    found = {FOLDER / "index.md": _index()}
    for code, said in CODES.items():
        reasons = [
            reason for reason in REASONS if code in (*codes_of(reason), JUDGED.get(reason)) and not is_theirs(reason)
        ]
        facts = [f"**HTTP status**, where it comes before an orchestrator's own stream: {http_status(code)}"]
        retried = {is_retriable(code, reason) for reason in reasons or ["?"]}
        facts.append(
            "**Worth trying again**: " + {1: "yes" if True in retried else "no"}.get(len(retried), "it depends")
        )
        if reasons:
            facts.append("**Reasons**: " + ", ".join(f"[{reason}]({reason}.md)" for reason in reasons))
        found[FOLDER / f"{code}.md"] = _page(f"{code}", said, facts)
    for reason, said in REASONS.items():
        facts = [] if is_theirs(reason) else [_code(reason), f"**Worth trying again**: {_again(reason)}"]
        found[FOLDER / f"{reason}.md"] = _page(f"{reason}", said, facts)
    return found


def is_theirs(reason: Reason) -> bool:
    """Whether only orchestrators use it."""
    return "Adapters never raise this" in REASONS[reason].happened


def _code(reason: Reason) -> str:
    before, after = codes_of(reason)
    if judged := JUDGED.get(reason):
        return f"**Code**: [{judged}]({judged}.md) where nothing was sent, [{before}]({before}.md) where the server said so"
    codes = f"**Code**: [{before}]({before}.md)"
    return codes if after is before else f"{codes} before the first token, [{after}]({after}.md) after it"


def _again(reason: Reason) -> str:
    before, after = (is_retriable(code, reason) for code in codes_of(reason))
    if before is after:
        return "yes" if before else "no"
    return "before the first token" if before else "after the first token"


def _page(name: str, said: Explanation, facts: list[str]) -> str:
    listed = "".join(f"- {fact}\n" for fact in facts)
    return f"# {name}\n\n{WRITTEN}\n**What happened.** {said.happened}\n\n**What to do.** {said.do}\n\n{listed}"


def _index() -> str:
    rows = [f"| [{code}]({code}.md) | {http_status(code)} | {_first(said)} |" for code, said in CODES.items()]
    more = [f"| [{reason}]({reason}.md) | {_first(said)} |" for reason, said in REASONS.items()]
    return (
        RAISED.replace("# Errors\n", f"# Errors\n\n{WRITTEN}")
        + "## Codes\n\n| Code | Status | What happened |\n|---|---:|---|\n"
        + "\n".join(rows)
        + "\n\n## Reasons\n\n| Reason | What happened |\n|---|---|\n"
        + "\n".join(more)
        + "\n"
    )


def _first(said: Explanation) -> str:
    return said.happened.split(". ")[0].rstrip(".")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        old.unlink()
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
