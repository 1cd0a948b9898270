"""Creations in a real browser: what a person sees, and what a page cannot do."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.conftest import Platform
from tests.e2e.test_platform import Follower, open_session, post

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium on this machine; .ci/browser installs it")
        pytest.skip("no Chromium on this machine; as root, .ci/browser installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(sys.platform != "linux", reason="the browser is Debian's")
def test_a_creation_opens_in_a_browser_on_its_own_host(platform: Platform, browser: Browser, tmp_path: Path) -> None:
    with platform.client() as client:
        session = open_session(client)
        follower = Follower(client, session)
        post(client, session, "Write a note about tea.")
        made = follower.until("creation.version")[-1]["data"]
        link = client.post(f"/api/v1/creations/{made['creation_id']}/preview-links").json()["url"]
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    answer = page.goto(link)
    assert answer is not None
    assert answer.status == 200
    assert "access=" not in page.url
    assert page.title() == made["title"]
    assert "Version 1 of 1" in page.inner_text("header")
    assert page.inner_text("main").strip()
    # Styled by our own sheet, so the policy that forbids everything else lets it through.
    assert page.evaluate("getComputedStyle(document.querySelector('main')).borderStyle") != "none"
    page.goto(page.url + "v/1/source")
    assert page.evaluate("document.contentType") == "text/plain"
    # The page's own origin is not the application's: its API is not there, with or without the cookie.
    refused = page.goto(f"http://{page.url.split('/')[2]}/api/v1/me")
    assert refused is not None
    assert refused.status == 404
    relevant = [error for error in errors if "favicon" not in error and "404" not in error]
    assert relevant == []
    stranger = browser.new_context().new_page()
    answer = stranger.goto(link.split("?")[0])
    assert answer is not None
    assert answer.status == 401
    assert "expired" in stranger.inner_text("main").lower()
