"""A real Chromium for tests of the console: that of the machine, driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any, Self

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WIDE, PHONE = (1280, 900), (390, 844)
THEMES = ("light", "dark")

expect.set_options(timeout=30_000)  # a busy machine draws a page in some seconds


def chromium() -> str:
    """Return the path of the machine's Chromium; empty: it has none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=chromium(), args=list(FLAGS), chromium_sandbox=False
        )
        try:
            yield found
        finally:
            found.close()


class Tab:
    """A page in a separate context. At its end, no script failed and nothing was refused by the policy."""

    def __init__(
        self,
        found: Browser,
        url: str,
        *,
        theme: str = "light",
        size: tuple[int, int] = WIDE,
        scripts: bool = True,
    ) -> None:
        self.url = url
        settings: dict[str, Any] = {"color_scheme": theme, "java_script_enabled": scripts}
        self.context: BrowserContext = found.new_context(
            viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", **settings
        )
        self.context.set_default_timeout(15_000)
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)

    def go(self, path: str) -> Page:
        self.page.goto(f"{self.url}{path}")
        return self.page

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        found = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return int(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
