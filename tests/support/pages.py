"""Script payloads, and a real browser that tells what they did."""

import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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
    wrap.format(
        template.format(js=f"document.title='canary{i}-{j}'", url=f"http:\u2215\u2215canary.test/{i}-{j}")
    )
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
    run = subprocess.run(
        [CHROMIUM, *flags, page.resolve().as_uri()], capture_output=True, timeout=100, check=True
    )
    return Dom(run.stdout.decode("utf-8"))


def real(text: str) -> str:
    """The payload as it would really be written; in file names a look-alike stands for the slash."""
    return text.replace("\u2215", "/")


LIVE = [
    (
        f"<script>document.title='canary'</script><img src=http://canary.test/{i}><img src=x "
        "onerror=document.title='canary'>"
    )
    for i in range(3)
]
