"""Script payloads in file names, knowledge and completions: in a real browser nothing executes and no request leaves.

Three layers are shown apart: the page as written; the payloads unescaped behind the page's content security policy (its second
line of defence); and unescaped without the policy, where the payloads must fire, or this test would prove nothing.
"""

import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import recordings
from anomalyr1 import answers, report
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.inspector import Inspector
from anomalyr1.types import Box

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

# {js} runs code, {url} asks for something; both name the canary and the payload's number.
TEMPLATES = (
    "<script>{js}</script>",
    "<SCRIPT SRC={url}></SCRIPT>",
    "<script>{js}",
    "<scr<script>ipt>{js}</script>",
    "</script><script>{js}</script>",
    "<img src=x onerror={js}>",
    "<img src={url}>",
    '"><img src={url}>',
    "' onmouseover='{js}' x='",
    '" autofocus onfocus="{js}',
    "<svg onload={js}>",
    "<svg><script>{js}</script></svg>",
    "<svg><animate onbegin={js} attributeName=x dur=1s>",
    "<math><mtext><img src={url}>",
    "<iframe src={url}></iframe>",
    "<iframe srcdoc='<script>{js}</script>'></iframe>",
    "<object data={url}></object>",
    "<embed src={url}>",
    "<link rel=stylesheet href={url}>",
    "<link rel=prefetch href={url}>",
    "<style>@import '{url}';</style>",
    "</style><script>{js}</script>",
    "<div style='background:url({url})'>",
    "<base href={url}>",
    "<meta http-equiv=refresh content='0;url={url}'>",
    "<video src={url} autoplay>",
    "<audio src={url} autoplay onerror={js}>",
    "<video><source onerror={js}></video>",
    "<body onload={js}>",
    "<input autofocus onfocus={js}>",
    "<details open ontoggle={js}>",
    "<select autofocus onfocus={js}>",
    "<form action={url}><input type=submit></form>",
    "<a href='javascript:{js}'>",
    "</p></div></article><script>{js}</script>",
    "</title><script>{js}</script>",
    "</pre></details><img src={url}>",
    "<!--><script>{js}</script>-->",
    "]]><script>{js}</script>",
    "{{{{ cycler.__init__.__globals__.os.popen('{url}') }}}}",
    "{{% include '{url}' %}}",
    "${{{js}}}",
    "&lt;script&gt;{js}&lt;/script&gt;",
    "\u2028<script>{js}</script>",
    "\ufeff<script>{js}</script>",
    "<script\t>{js}</script>",
    "<img\nsrc={url}>",
    "\u202e<script>{js}</script>",
    "<template><script>{js}</script></template>",
    "<noscript><p title='</noscript><img src={url}>'>",
)
WRAPS = ("{}", '">{}', "'>{}", "x{}x", "</td></tr></table>{}", "data:,{}")
PAYLOADS = [
    wrap.format(template.format(js=f"document.title='canary{i}-{j}'", url=f"http:\u2215\u2215canary.test/{i}-{j}"))
    for i, template in enumerate(TEMPLATES)
    for j, wrap in enumerate(WRAPS)
]


class Canary:
    """A proxy that every request of the browser goes through, so that none leaves unseen (or at all)."""

    def __init__(self):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_error(404)

            do_POST = do_CONNECT = do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def hits(self):
        """Requests of payloads; the browser's own are not counted."""
        return [path for path in self.asked if "canary" in path]


@pytest.fixture
def canary():
    one = Canary()
    yield one
    one.server.shutdown()
    one.server.server_close()


class Dom(HTMLParser):
    """Counts elements and keeps the title."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.handlers, self.title, self._in_title = [], [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self._in_title = tag == "title" and "svg" not in self.tags

    def handle_data(self, data):
        self.title += data if self._in_title else ""

    def handle_endtag(self, tag):
        self._in_title = False


def browse(page: Path, profile: Path, canary: Canary) -> Dom:
    """The document after the browser has loaded it and let 2 s of its time pass."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={profile}", f"--proxy-server=127.0.0.1:{canary.server.server_port}",
        "--proxy-bypass-list=<-loopback>", "--virtual-time-budget=2000", "--autoplay-policy=no-user-gesture-required", "--dump-dom",
    ]  # fmt: skip
    run = subprocess.run([CHROMIUM, *flags, page.resolve().as_uri()], capture_output=True, timeout=100, check=True)
    return Dom(run.stdout.decode("utf-8"))


def inspected(folder: Path, texts: list[str]) -> Path:
    """The page of one inspection a text, which stands in file name, knowledge, reasoning, label, unreadable completions and model name."""
    samples, completions = [], {}
    for i, text in enumerate(texts):
        path = recordings.draw(folder / f"{i:03}{text[:180]}".replace("/", "\u2215"))  # a slash cannot be in a name
        sample = recordings.sample(path, knowledge=real(text))
        box = Box(x1=60, y1=40, x2=80, y2=54, label=real(text))
        written = answers.write(real(text), "A"), answers.write(real(text), [box], recordings.FRAME)
        completions[sample.id] = written if i % 3 else (real(text), real(text))
        samples.append(sample)
    recordings.record(folder / "recorded.jsonl", completions)
    inspector = Inspector(ReplayEngine(folder / "recorded.jsonl"), masks="box")
    results = inspector.run(samples, folder / "out" / "inspections.jsonl")
    fingerprint = inspector.fingerprint().model_copy(update={"model": real(texts[0])})
    about = report.About(fingerprint, real(texts[1]), real(texts[1]), real(texts[2]), real(texts[3]))
    return report.write(folder / "out", list(zip(samples, results, strict=True)), about)


def real(text: str) -> str:
    """The payload as it would really be written; in file names a look-alike stands for the slash."""
    return text.replace("\u2215", "/")


def test_300_payloads_do_nothing(tmp_path, canary):
    assert len(PAYLOADS) == 300 == len(set(PAYLOADS))
    page = inspected(tmp_path / "hostile", PAYLOADS)
    dom = browse(page, tmp_path / "profile", canary)
    assert dom.title == "Inspection of 300 images"
    assert canary.hits == []
    assert dom.handlers == []
    plain = browse(inspected(tmp_path / "plain", [f"x{i}" for i in range(300)]), tmp_path / "profile2", canary)
    assert sorted(dom.tags) == sorted(plain.tags)  # no payload became an element
    assert dom.tags.count("article") == 300


def unescaped(page: Path, payloads: list[str], keep_policy: bool) -> None:
    """A page as it would be with escaping off, with or without its policy."""
    one = report.page([], [], report.About(recordings.FINGERPRINT)).replace("</main>", "".join(map(real, payloads)) + "</main>")
    if not keep_policy:
        one = one.replace("Content-Security-Policy", "nothing")
    page.write_text(one, encoding="utf-8")


LIVE = [
    f"<script>document.title='canary'</script><img src=http://canary.test/{i}><img src=x onerror=document.title='canary'>" for i in range(3)
]


@pytest.mark.parametrize("keep_policy", [True, False])
def test_the_policy_alone_stops_payloads_and_without_it_they_fire(tmp_path, canary, keep_policy):
    page = tmp_path / "page.html"
    unescaped(page, LIVE, keep_policy)
    dom = browse(page, tmp_path / "profile", canary)
    assert (dom.title == "canary") is not keep_policy
    assert bool(canary.hits) is not keep_policy
