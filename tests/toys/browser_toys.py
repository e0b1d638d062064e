"""JupyterLab in a headless Chromium, driven over its debugging socket (websocket-client comes with Jupyter's server)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def wait_for(what: str, ask: Callable[[], Any], seconds: float) -> Any:
    """The first true thing that ``ask`` returns; whatever it raises counts as not yet."""
    told: Any = None
    for _ in range(int(2 * seconds)):
        try:
            if told := ask():
                return told
        except Exception as error:  # a server that is not up yet, a page without its application
            told = error
        time.sleep(0.5)
    raise TimeoutError(f"{what}: not within {seconds:.0f} seconds; last: {told!r}")


@contextmanager
def process(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    """A program that runs as long as the block does."""
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | environment)
        try:
            yield
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@contextmanager
def jupyterlab(folder: Path, scratch: Path) -> Iterator[str]:
    """JupyterLab over a folder; gives its address. Settings and runtime files lie in ``scratch``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--PasswordIdentityProvider.hashed_password=",
        f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=",
    ]  # fmt: skip
    places = {f"JUPYTER_{kind}_DIR": str(scratch / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    with process(command, scratch / "jupyter.log", **places, IPYTHONDIR=str(scratch / "ipython")):
        address = f"http://127.0.0.1:{port}"
        wait_for("JupyterLab", lambda: urllib.request.urlopen(f"{address}/api").status == 200, 120)
        yield address


class Page:
    """A page's debugging socket."""

    def __init__(self, address: str) -> None:
        import websocket

        self.socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self.calls = 0

    def call(self, method: str, **given: Any) -> Any:
        """What a method of the DevTools protocol returns."""
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": given}))
        while True:
            told = json.loads(self.socket.recv())
            if told.get("id") == self.calls:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """What is visible, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(scratch: Path, width: int = 1280, height: int = 1600) -> Iterator[Page]:
    """A headless Chromium with one empty page."""
    assert CHROMIUM is not None
    home = scratch / "chromium"
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", f"--user-data-dir={home}", f"--window-size={width},{height}", "about:blank",
    ]  # fmt: skip

    def pages() -> str | None:
        port = (home / "DevToolsActivePort").read_text().splitlines()[0]
        listed = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list").read())
        return next((one["webSocketDebuggerUrl"] for one in listed if one["type"] == "page"), None)

    with process(command, scratch / "chromium.log"):
        page = Page(wait_for("Chromium", pages, 120))
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        try:
            yield page
        finally:
            with suppress(Exception):
                page.socket.close()


# shell.currentWidget is null as long as nobody has clicked anything
OPEN = "Array.from(window.jupyterapp.shell.widgets('main')).find(w => w.sessionContext && w.content.widgets)"
CELLS = f"""(() => {{
  const book = {OPEN};
  const cells = book.content.widgets.map(w => w.model).filter(m => m.type === 'code' && m.sharedModel.source.trim());
  const errors = cells.flatMap(m => m.outputs.toJSON()).filter(o => o.output_type === 'error');
  return {{
    status: book.sessionContext.session?.kernel?.status ?? 'none',
    cells: cells.length,
    ran: cells.filter(m => m.executionCount !== null && m.executionState !== 'running').length,
    errors: errors.map(o => o.ename + ': ' + o.evalue),
  }};
}})()"""


def open_notebook(page: Page, address: str, name: str, seconds: float = 300) -> None:
    """Shows a notebook of the server's folder, and waits until its kernel is idle."""
    page.call("Page.navigate", url=f"{address}/lab/tree/{name}?reset")
    wait_for(f"{name} in JupyterLab", lambda: page.evaluate(CELLS)["status"] == "idle", seconds)
    page.evaluate(f"window.jupyterapp.shell.activateById(({OPEN}).id)")


def run_all(page: Page, seconds: float) -> dict[str, Any]:
    """Clears all outputs, runs all cells as the menu does, and tells how it went when nothing runs any more."""
    for command in ("notebook:clear-all-cell-outputs", "notebook:run-all-cells"):
        page.evaluate(f"void window.jupyterapp.commands.execute({command!r})")

    def finished() -> dict[str, Any] | None:
        state: dict[str, Any] = page.evaluate(CELLS)
        done = state["ran"] == state["cells"] or state["errors"]
        return state if done and state["status"] == "idle" else None

    told: dict[str, Any] = wait_for("all cells", finished, seconds)
    return told
