"""What users see, in headless Chromium: all pages of the documentation, and notebooks with widgets in JupyterLab.

    python scripts/browser.py                # one line per check; `make docs` first
    python scripts/browser.py --only lab

Pictures of what was seen are left in _screenshots/. Nothing may be asked for from elsewhere, and nothing may end up as
an error in the console or in a cell. Chromium is the system's (or the one that CHROMIUM names), or that of
`playwright install chromium`.
"""

import argparse
import contextlib
import functools
import http.server
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "_docs"
SHOTS = ROOT / "_screenshots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HERE = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "about:")  # addresses that lead nowhere else


class Tally:
    "Checks that were run, and how many passed"

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name: str, f: Callable, *args):
        "Run one check and print its line; what it returns is a remark"
        began = time.monotonic()
        try:
            remark, passed = f(*args) or "", True
        except Exception as e:
            remark, passed = f"{type(e).__name__}: {' '.join(str(e).split())[:1500]}", False
        self.passed, self.failed = self.passed + passed, self.failed + (not passed)
        line = f"{'pass' if passed else 'FAIL'} {time.monotonic() - began:7.1f} s  {name}"
        print(f"{line}: {remark}" if remark else line, flush=True)


class Watch:
    "A page that remembers errors, and requests that leave this machine"

    def __init__(self, context):
        self.page, self.faults = context.new_page(), []
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("console", self._on_console)
        self.page.on("request", self._on_request)
        self.page.on("response", self._on_response)

    def _on_console(self, message):
        url = message.location.get("url", "")
        if message.type == "error" and "favicon" not in url:
            self.faults.append(f"{message.text} {url}")

    def _on_request(self, request):
        if not request.url.startswith(HERE):
            self.faults.append(f"asked for {request.url}")

    def _on_response(self, response):
        if response.status >= 400 and "favicon" not in response.url:
            self.faults.append(f"{response.status} {response.url}")

    def clean(self):
        "Raise if anything went wrong, and forget it"
        faults, self.faults = self.faults, []
        if faults:
            raise AssertionError(f"{len(faults)} faults, first: {faults[0]}")


@contextlib.contextmanager
def watch(browser, width: int = 1280, height: int = 900, **options):
    "A page of that size, closed at the end, on which nothing may have gone wrong"
    context = browser.new_context(viewport=dict(width=width, height=height), **options)
    try:
        w = Watch(context)
        yield w
        w.clean()
    finally:
        context.close()


# ---- documentation


@contextlib.contextmanager
def site():
    "The built pages, served on loopback"
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
    patient = type("Server", (http.server.ThreadingHTTPServer,), dict(handle_error=lambda *a: None))
    server = patient(("127.0.0.1", 0), functools.partial(quiet, directory=DOCS))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def pages() -> list[str]:
    "Addresses of all pages, below the root"
    return sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.html"))


EMPTY_PICTURES = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src.slice(0, 80))"
UNDESCRIBED = "[...document.images].filter(i => !i.alt).length"
LINKS = "[...document.querySelectorAll('a[href]')].map(a => a.href)"


def look_at(w: Watch, url: str, name: str) -> int:
    "Open one page, which must have a title, and pictures that are there and described; how many pictures"
    w.page.goto(f"{url}/{name}", wait_until="load")
    assert w.page.locator("h1").count(), f"{name}: no title"
    empty, undescribed = w.page.evaluate(EMPTY_PICTURES), w.page.evaluate(UNDESCRIBED)
    assert not empty, f"{name}: empty picture {empty[0]}"
    assert not undescribed, f"{name}: {undescribed} pictures without alt text"
    return w.page.evaluate("document.images.length")


def every_page(browser, url: str) -> str:
    "Each page opens; its pictures are there; its links lead somewhere"
    targets, pictures, names = set(), 0, pages()
    assert len(names) > 30, f"{len(names)} pages in _docs: build them first (make docs)"
    with watch(browser) as w:
        for name in names:
            pictures += look_at(w, url, name)
            found = {href.split("#")[0] for href in w.page.evaluate(LINKS)}
            for target in {t for t in found if t.startswith(url)} - targets:
                urllib.request.urlopen(urllib.request.Request(target, method="HEAD")).close()
                targets.add(target)
            w.clean()
    return f"{len(names)} pages, {pictures} pictures, {len(targets)} links"


CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
  const linear = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
  const light = c => { const [r, g, b] = c.slice(0, 3).map(linear); return .2126 * r + .7152 * g + .0722 * b };
  const over = (a, b) => a.slice(0, 3).map((v, i) => v * a[3] + b[i] * (1 - a[3]));
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] > .9) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const texts = 'p li td th figcaption a h1 h2 h3 code pre'.split(' ').map(t => 'main ' + t);
  const others = ['.breadcrumb a', '.sidebar a', 'nav[role=doc-toc] a'];
  let worst = [99, ''];
  for (const e of document.querySelectorAll([...texts, ...others].join(', '))) {
    if (!e.innerText.trim() || !e.offsetParent) continue;
    const style = getComputedStyle(e), b = ground(e);
    const a = light(over(parse(style.color), b)), c = light(b);
    const ratio = (Math.max(a, c) + .05) / (Math.min(a, c) + .05);
    if (ratio < worst[0]) worst = [ratio, `${e.tagName} "${e.innerText.slice(0, 40)}" ${style.color} on ${b}`];
  }
  return worst }"""


def phone_page(w: Watch, url: str, name: str, scheme: str) -> float:
    "Open one page on a phone; its least contrast"
    w.page.goto(f"{url}/{name}", wait_until="load")
    wide, window = w.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window + 1, f"{name} is {wide} pixels wide, {scheme}"
    ratio, what = w.page.evaluate(CONTRAST)
    assert ratio >= 4.5, f"{name}, {scheme}: contrast {ratio:.1f}: {what}"
    if name in ("index.html", "explore.fields.html"):
        w.page.screenshot(path=SHOTS / f"phone-{Path(name).stem}-{scheme}.png")
    return ratio


def on_a_phone(browser, url: str) -> str:
    "At the width of a phone no page scrolls sideways, and text stands out from its ground (WCAG's 4.5 to 1)"
    least = 99.0
    assert pages(), "no pages in _docs"
    for scheme in ("light", "dark"):
        with watch(browser, 390, 844, color_scheme=scheme) as w:
            least = min([least, *(phone_page(w, url, name, scheme) for name in pages())])
    return f"least contrast {least:.1f}"


SEARCH_BOX = "input[type=search], #quarto-search input, .search-input, input[placeholder*=earch]"
HIT = "[...document.querySelectorAll('a')].some(a => a.offsetParent && /VRMSE/.test(a.innerText))"


def search_finds(browser, url: str) -> str:
    "The search of the pages finds a metric by its name, and its first hit leads to it"
    with watch(browser) as w:
        w.page.goto(f"{url}/index.html", wait_until="load")
        box = w.page.locator(SEARCH_BOX).first
        box.click()
        box.press_sequentially("VRMSE", delay=30)
        w.page.wait_for_function(HIT, timeout=10_000)
        w.page.screenshot(path=SHOTS / "docs-search.png")
        w.page.locator("a", has_text="VRMSE").first.click()
        w.page.wait_for_load_state("load")
        assert "VRMSE" in w.page.locator("main").inner_text().upper(), "the first hit does not lead to it"
        return f"the first hit leads to {w.page.url.rsplit('/', 1)[-1]}"


def play(w: Watch, player):
    "Play, pause, and move the slider by hand"
    image = player.locator("img")
    first = image.get_attribute("src")
    player.locator("button").click()
    w.page.wait_for_timeout(600)
    assert image.get_attribute("src") != first, "the picture stands still"
    player.locator("button").click()
    paused = image.get_attribute("src")
    w.page.wait_for_timeout(300)
    assert image.get_attribute("src") == paused, "it does not pause"
    player.locator("input[type=range]").focus()
    w.page.keyboard.press("Home")
    assert image.get_attribute("src") == first, "the slider does nothing"
    assert image.evaluate("i => i.naturalWidth") > 100


PLAYERS = {"explore.views.html": 1, "explore.fields.html": 5, "explore.launcher.html": 1}


def players_play(browser, url: str) -> str:
    "Every player of the pages on views"
    with watch(browser) as w:
        for name, expected in PLAYERS.items():
            w.page.goto(f"{url}/{name}", wait_until="load")
            players = w.page.locator("figure.player")
            count = players.count()
            assert count == expected, f"{name}: {count} players, there should be {expected}"
            for i in range(count):
                play(w, players.nth(i))
    return f"{sum(PLAYERS.values())} players"


SHOWN = (
    "index.html",
    "explore.fields.html",
    "training.trainer.html",
    "tutorials/first_forecast.html",
    "reference/configuration.html",
    "guides/real_model.html",
)  # pages of which a picture is kept


def pictures_of_pages(browser, url: str):
    "For those who look at what a change does to the pages"
    with watch(browser) as w:
        for name in SHOWN:
            if (DOCS / name).is_file():
                w.page.goto(f"{url}/{name}", wait_until="load")
                w.page.screenshot(path=SHOTS / f"docs-{Path(name).stem}.png")


# ---- JupyterLab


def notebook(source: str) -> str:
    "A notebook of one cell"
    cell = dict(cell_type="code", execution_count=None, id="aaaaaaa1", metadata={}, outputs=[], source=source.strip())
    kernel = dict(display_name="python3", language="python", name="python3")
    return json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5))


LIVE = """
import tempfile
from wan_well.config import load_config
from wan_well.explore.launcher import launch
from wan_well.simulate import cached_dataset

training = "num_epochs=100 field_epochs=0 samples_per_epoch=12 batch_size=4 val_samples=2 log_every=1 num_threads=1"
overrides = [f"--output_dir={tempfile.mkdtemp()}", "--name=live", "--model.decoder.kind=none", "--device=cpu"]
overrides += [f"data.path={cached_dataset()}", "data.n_steps_output=4", "data.window_stride=22"]
overrides += [f"training.{o}" for o in training.split()]
run = launch(load_config("demo", overrides), start=False)
run"""

LARGE = """
import numpy as np
from IPython.display import display
from torch.nn.functional import interpolate
from wan_well.data.reader import open_split
from wan_well.explore.fields import *
from wan_well.forecast.baselines import Persistence
from wan_well.simulate import cached_dataset

small = open_split(cached_dataset(), "test")


class Large:  # the embedded fields on 128 x 384 cells: what it takes to draw them depends on their number alone
    n_x, n_y, n_steps, lengths = 128, 384, 20, [20] * small.n_trajectories
    x, y = (np.linspace(axis[0], axis[-1], n) for axis, n in ((small.x, 128), (small.y, 384)))

    def __getattr__(self, name):
        return getattr(small, name)

    def constants(self, i):
        return small.constants(i).new_zeros(0, 128, 384)

    def given(self, trajectories):
        parameters, constants = small.given(trajectories)
        return parameters, constants.new_zeros(len(trajectories), 0, 128, 384)

    def window(self, i, start, n):
        return interpolate(small.window(i, start, n), size=(128, 384), mode="bilinear")

    def trajectory(self, i):
        return self.window(i, 0, self.n_steps)


large = Large()
display(explore_trajectories(large))
display(explore_forecast([Persistence()], large, 1, n_steps=12))
display(explore_ensemble(Persistence(), large, 1, members=4))
display(explore_spectra([Persistence()], large, 1, n_steps=12))"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_flags() -> list[str]:
    "What `make lab` adds: where JupyterLab opens"
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True).stdout
    return [word for word in shown.split() if word.startswith("--LabApp.")]


def furnish(folder: Path):
    "A copy of the notebooks, two more, and settings that keep JupyterLab from asking for news"
    ignored = shutil.ignore_patterns(".ipynb_checkpoints", "runs", "datasets")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=ignored)
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy2(ROOT / name, folder)
    (folder / "nbs/live.ipynb").write_text(notebook(LIVE))
    (folder / "nbs/large.ipynb").write_text(notebook(LARGE))
    quiet = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")


def start_lab(folder: Path, port: int) -> subprocess.Popen:
    "JupyterLab over a furnished folder, with all its own files in there too"
    places = dict(
        JUPYTER_CONFIG_DIR="config",
        JUPYTER_DATA_DIR="data",
        JUPYTER_RUNTIME_DIR="runtime",
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
    )
    env = dict(os.environ, HF_HUB_OFFLINE="1", **{name: str(folder / place) for name, place in places.items()})
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip", "127.0.0.1"]
    command += ["--port", str(port), "--IdentityProvider.token=", "--ServerApp.password="]
    command += ["--notebook-dir", str(folder / "nbs"), *make_flags()]
    with open(folder / "log", "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)


def wait_until_up(url: str, process: subprocess.Popen, log: Path):
    "Until JupyterLab answers"
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/api/status", timeout=2).close()
            return
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-800:]}") from None
            time.sleep(0.3)


@contextlib.contextmanager
def lab():
    "A server over a copy of the notebooks, on loopback, without a token"
    with tempfile.TemporaryDirectory() as tmp:
        folder, port = Path(tmp), free_port()
        furnish(folder)
        process, url = start_lab(folder, port), f"http://127.0.0.1:{port}"
        try:
            wait_until_up(url, process, folder / "log")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


watch_lab = functools.partial(watch, width=1400, height=1500)

IDLE = "text=/Python 3.*Idle/"  # in the status bar: the kernel is ready
BUSY = """() => {
  const panel = [...document.querySelectorAll('.jp-NotebookPanel')].find(p => p.offsetParent);
  return !panel || [...panel.querySelectorAll('.jp-InputPrompt')].some(x => /\\[\\*\\]/.test(x.innerText));
}"""
ERRORS = (
    '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]:has-text("Traceback"), '
    '.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]'
)


def open_and_run(w: Watch, url: str, name: str, limit: float):
    "Open a notebook, run all cells, wait for the kernel; no cell may end in an error"
    w.page.goto(f"{url}/lab/tree/{name}?reset", wait_until="load")
    w.page.locator(IDLE).first.wait_for(timeout=90_000)
    w.page.locator('.lm-MenuBar-itemLabel:text-is("Run")').click()
    w.page.locator('.lm-Menu-itemLabel:text-is("Run All Cells")').click()
    w.page.wait_for_timeout(1500)
    end = time.monotonic() + limit
    while w.page.evaluate(BUSY) or not w.page.locator(IDLE).count():
        assert time.monotonic() < end, f"{name}: still running after {limit:.0f} s"
        w.page.wait_for_timeout(500)
    errors = w.page.locator(ERRORS)
    assert not errors.count(), f"{name}: {errors.first.inner_text()[-600:]}"


VIEWS = "img.wan-well-view"
MOVED = """i => new Promise((done, fail) => {
  const image = document.querySelectorAll('img.wan-well-view')[i], before = image.src, began = performance.now();
  const look = new MutationObserver(() => {
    if (image.src === before) return;
    look.disconnect();
    const ready = () => done(performance.now() - began);
    image.complete ? ready() : image.addEventListener('load', ready, {once: true});
  });
  look.observe(image, {attributes: true, attributeFilter: ['src']});
  setTimeout(() => { look.disconnect(); fail(new Error(`picture ${i} did not change`)); }, 15000);
})"""


def milliseconds_of(w: Watch, i: int, move: Callable) -> float:
    "From a move to the new picture of view `i`, which must change"
    w.page.evaluate(f"window.__moved = ({MOVED})({i}); window.__moved.catch(() => 0); null")
    move()
    return w.page.evaluate("window.__moved")


def press(w: Watch, handle, key: str):
    "A key on the handle of a slider"
    handle.focus()
    w.page.keyboard.press(key)


def choose_another(choice):
    "Another option of a list: the last one, or the first one if that is chosen"
    last = choice.evaluate("s => s.selectedIndex < s.length - 1 ? s.length - 1 : 0")
    choice.select_option(index=last)


def move_view(w: Watch, i: int, lists: bool) -> tuple[list[float], object]:
    "Every slider of one view, and every list if asked for: milliseconds of the sliders, and the box of the view"
    image, took = w.page.locator(VIEWS).nth(i), []
    image.scroll_into_view_if_needed()
    w.page.wait_for_timeout(200)
    box = image.locator("xpath=..")
    handles, choices = box.locator(".noUi-handle"), box.locator("select")
    assert handles.count(), f"view {i} has no slider"
    for k in range(handles.count()):
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            took.append(milliseconds_of(w, i, lambda: press(w, handles.nth(k), key)))
    for k in range(choices.count() if lists else 0):
        if choices.nth(k).locator("option").count() > 1:
            milliseconds_of(w, i, lambda: choose_another(choices.nth(k)))
    return took, box


def sliders_move(w: Watch, shots: str, expected: int, lists: bool = True) -> list[float]:
    "Every slider, and every list, of every view: the picture must change; milliseconds that it took, for sliders"
    took, count = [], w.page.locator(VIEWS).count()
    assert count == expected, f"{count} views, there should be {expected}"
    for i in range(count):
        more, box = move_view(w, i, lists)
        took += more
        w.page.wait_for_timeout(300)
        box.screenshot(path=SHOTS / f"{shots}-{i}.png")
    return took


def timing(took: list[float]) -> str:
    "Milliseconds in words"
    return f"{len(took)} moves, {statistics.median(took):.0f} ms median from key to picture, {max(took):.0f} at most"


EXPLORE = {"71_explore.fields": 5, "72_explore.launcher": 3}  # notebooks, and how many views they show


def explore_works(browser, url: str) -> str:
    "All views, in the notebooks that define them"
    took = []
    for name, views in EXPLORE.items():
        with watch_lab(browser) as w:
            open_and_run(w, url, f"{name}.ipynb", 300)
            took += sliders_move(w, f"lab-{name.partition('_')[2]}", views)
    return f"{sum(EXPLORE.values())} views, {timing(took)}"


def tutorial_works(browser, url: str) -> str:
    "Where `make lab` leads"
    with watch_lab(browser) as w:
        w.page.goto(url, wait_until="load")
        w.page.locator(".jp-NotebookPanel").wait_for(timeout=60_000)
        assert w.page.url.split("?")[0].endswith("/tutorials/first_forecast.ipynb"), w.page.url
        open_and_run(w, url, "tutorials/first_forecast.ipynb", 400)
        took = sliders_move(w, "lab-tutorial", 5)
        w.page.screenshot(path=SHOTS / "lab-tutorial.png")
    return f"5 views, {timing(took)}"


def large_fields(browser, url: str) -> str:
    "At the size of The Well's fields"
    with watch_lab(browser) as w:
        open_and_run(w, url, "large.ipynb", 90)
        took = sliders_move(w, "lab-large", 4, lists=False)
    median = statistics.median(took)
    assert median < 1000, f"{median:.0f} ms"  # far above what is measured: machines differ
    return f"4 views, {timing(took)}"


STATUS = ".jp-OutputArea .widget-html-content"


def wait_for_status(w: Watch, pattern: str, seconds: int):
    "Until the launcher's line matches a pattern"
    condition = f"/{pattern}/.test(document.querySelector('{STATUS}').innerText)"
    w.page.wait_for_function(condition, timeout=1000 * seconds)


def click(w: Watch, button: str):
    "One of the launcher's buttons"
    w.page.locator(f".jupyter-button:has-text('{button}')").first.click()


def launcher_works(browser, url: str) -> str:
    "Start by the button, watch it live, stop by the button, resume"
    with watch_lab(browser) as w:
        open_and_run(w, url, "live.ipynb", 90)
        status = w.page.locator(STATUS).first
        assert "not started" in status.inner_text()
        click(w, "start")
        wait_for_status(w, "update 3", 240)
        before = w.page.locator(VIEWS).first.get_attribute("src")
        grown = f"s => document.querySelector('{VIEWS}').src !== s"
        w.page.wait_for_function(grown, arg=before, timeout=120_000)  # the curves grow by themselves
        w.page.screenshot(path=SHOTS / "lab-live.png")
        click(w, "stop")
        wait_for_status(w, "stopped", 120)
        stopped = status.inner_text().splitlines()[0]
        click(w, "start")
        wait_for_status(w, "running: .*update", 240)
        click(w, "stop")
        wait_for_status(w, "stopped|finished", 120)
    return stopped


# ---- all of it

CHECKS = (
    (
        site,
        {
            "docs, every page opens": every_page,
            "docs, on a phone, light and dark": on_a_phone,
            "docs, search finds VRMSE": search_finds,
            "docs, players play": players_play,
            "docs, pictures": pictures_of_pages,
        },
    ),
    (
        lab,
        {
            "lab, explore": explore_works,
            "lab, tutorial": tutorial_works,
            "lab, launcher": launcher_works,
            "lab, 128×384": large_fields,
        },
    ),
)  # what is served, and what is looked at there


def find_chromium() -> str | None:
    "The browser to use; none: the one that playwright has installed"
    if named := os.environ.get("CHROMIUM"):
        return named
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the name of the checks to run")
    only, tally = parser.parse_args().only, Tally()
    SHOTS.mkdir(exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(headless=True, args=FLAGS, executable_path=find_chromium())
        for serve, checks in CHECKS:
            chosen = {name: f for name, f in checks.items() if only in name}
            if not chosen:
                continue
            with serve() as url:
                for name, f in chosen.items():
                    tally.check(name, f, browser, url)
        browser.close()
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return bool(tally.failed)


if __name__ == "__main__":
    sys.exit(main())
