"""Shows a page in Chromium without a window: for the README's pictures, and for the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = f"no Chromium is installed: looked for {', '.join(NAMES)} in the PATH"


def find_browser() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def show(
    browser: str, page: Path, *flags: str, size: tuple[int, int], dark: bool = False
) -> subprocess.CompletedProcess[str]:
    """Open a page and return what the browser prints, its console's messages to stderr."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(browser, "--headless", "--disable-gpu", "--hide-scrollbars"),
            *("--no-first-run", "--disable-background-networking", "--enable-logging=stderr"),
            *("--virtual-time-budget=10000", f"--user-data-dir={profile}"),
            f"--window-size={size[0]},{size[1]}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # which root cannot have
            *flags,
            page.resolve().as_uri(),
        ]
        return subprocess.run(  # noqa: S603 - a browser, on a page of our own
            command, capture_output=True, text=True, check=False, timeout=120
        )
