"""The example's page in a headless Chromium (`make page`): tokens arrive, a cancel works, replicas are watched."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from worker_adapters.testing.server import nobody_there

ASKED_FOR = bool(os.environ.get("WORKER_ADAPTERS_PAGE"))
if not ASKED_FOR:
    pytest.skip("needs a browser: make page", allow_module_level=True)

from playwright.sync_api import expect, sync_playwright  # noqa: E402  -- where there is one

SAYS = ["Zoë", " says", "\n", "<b>hi</b>", " 🎈"]
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"]
SECONDS = 20_000  # milliseconds that a busy machine may take for anything

pytestmark = pytest.mark.req("ADAPT-3600", socket=True)


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"none of {', '.join(BROWSERS)} is installed"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser):
    expect.set_options(timeout=SECONDS)
    context = browser.new_context()
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def opened(page, client):
    page.goto(f"http://{client.address[0]}:{client.address[1]}/")
    return page


def test_tokens_arrive_one_after_the_other_as_they_are(page, orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", says=SAYS * 4, rate=10.0))
    opened(page, client).click("#go")
    expect(page.locator("#state")).to_have_text("running on vllm")
    expect(page.locator("#text")).to_contain_text("Zoë")
    assert len(page.inner_text("#text")) < len("".join(SAYS * 4)), "not all at once"
    expect(page.locator("#state")).to_have_text(re.compile(r"^ended: stop, \d+ tokens$"))
    assert page.evaluate("document.getElementById('text').textContent") == "".join(SAYS * 4)
    expect(page.locator("#cancel")).to_be_disabled()


def test_a_cancel_ends_it_and_another_can_be_run(page, orchestrator, simulated_worker):
    worker = simulated_worker("llamacpp", says=SAYS, faults=["stall@3:forever"])
    client = orchestrator(worker)
    opened(page, client).click("#go")
    expect(page.locator("#text")).to_contain_text("says")
    page.click("#cancel")
    expect(page.locator("#state")).to_have_text(re.compile("^ended: cancelled"))
    page.click("#go")
    expect(page.locator("#state")).to_have_text(re.compile("^ended: stop"))


def test_replicas_are_watched(page, orchestrator, simulated_worker):
    with nobody_there() as dead:
        client = orchestrator(
            ("vllm", dead), simulated_worker("tgi", says=SAYS, faults=["stall@2:forever"]), slots=3, rest=60.0
        )
        opened(page, client)
        expect(page.locator("#replica-r1 td").nth(3)).to_have_text("0")
        page.click("#go")
        expect(page.locator("#replica-r1 td").nth(3)).to_have_text("1")
        expect(page.locator("#replica-r0")).to_have_class("rests")
        page.click("#cancel")
        expect(page.locator("#replica-r1 td").nth(3)).to_have_text("0")


def test_what_is_refused_is_said(page, orchestrator, simulated_worker):
    worker = simulated_worker("vllm", faults=["overloaded*"])
    opened(page, orchestrator(worker, rest=0.01)).click("#go")
    expect(page.locator("#state")).to_have_text(re.compile("^refused: ADMISSION_REJECT/OVERLOADED"))
    page.fill("#max", "0")
    page.evaluate("document.getElementById('max').min = ''")
    page.click("#go")
    expect(page.locator("#state")).to_have_text(re.compile("^refused: INVALID_PARAMS/VALIDATION: max_tokens"))


def test_a_stream_that_breaks_off_is_said(page, orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", says=SAYS * 3, faults=["reset@4"]))
    opened(page, client).click("#go")
    expect(page.locator("#state")).to_have_text(re.compile("^failed: WORKER_RESET/DISCONNECTED"))
    expect(page.locator("#go")).to_be_enabled()
