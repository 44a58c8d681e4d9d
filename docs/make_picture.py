"""Write docs/report.png, the top of a run's report as a browser shows it: `python docs/make_picture.py runs/demo`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

WIDTH, HEIGHT = 1240, 1370
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}",
]  # fmt: skip


def main(run: Path) -> None:
    """Take the picture; raises SystemExit where there is no report or no Chromium."""
    page, picture = run / "report.html", Path(__file__).with_name("report.png")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not page.is_file() or browser is None:
        raise SystemExit(f"there is no {page}" if browser else "there is no Chromium on this machine")
    command = [browser, *ARGUMENTS, f"--screenshot={picture}", page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    print(f"{picture}: {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
