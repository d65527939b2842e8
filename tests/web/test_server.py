"""The page over HTTP, as a browser and as an attacker ask for it."""

import json
import os
import re
import site
import socket
import sys
import threading
from pathlib import Path

import pytest

from dmgan_fast.errors import InputError
from dmgan_fast.web import server, views
from dmgan_fast.web.guard import JOIN
from tests.web.client import JSON, Client, values
from tests.web.conftest import BROKEN

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(address):
    return Client(address)


@pytest.fixture(scope="module")
def leaks(weights):
    """What no visitor may learn."""
    places = {str(ROOT), str(weights), str(Path.home()) + "/", *site.getsitepackages()}
    return re.compile("|".join([*map(re.escape, places), "Traceback", r'File \\?"', r"\.py\b"]))


def test_a_caption_gives_what_the_studio_gives(client, studio):
    assert client.ask(values(caption="a red zebra")) == views.images(studio.generate("a red zebra"))
    way = ["a red apple", "a blue car", None, 4, 3, 1, 3]
    assert client.ask(way, client.between) == views.strip(studio.between("a red apple", "a blue car", seed=4, steps=3))


def test_what_cannot_be_generated_is_said_in_the_answer(client):
    assert client.ask(values(caption="")) == views.refusal(
        "The caption is empty. Write what the image should show, for example: a red apple."
    )
    assert "not because of what you wrote" in client.ask(values(model=BROKEN))


def test_everything_the_page_loads_is_here(client):
    page = client.http.get("/").text
    files = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert files
    for file in files - {"/manifest.json"}:  # of an installed app, which this is not
        assert not file.startswith(("http", "//")), file
        assert client.http.get(file.removeprefix(".")).status_code == 200, file
    fonts = re.findall(r"url\(['\"]?([^'\")]+)", client.http.get("/theme.css").text)
    assert not [url for url in fonts if url.startswith(("http", "//"))]


def test_the_page_tells_no_path_and_no_other_function(client, leaks):
    for path in ("/", "/config"):
        assert not leaks.search(client.http.get(path).text)
    config = client.http.get("/config").json()
    assert not any(each["show_api"] for each in config["dependencies"] if "show_api" in each)
    assert config["analytics_enabled"] is False


HOSTILE_PATHS = [
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/upload?upload_id=../../x"),
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/file=../../../../etc/passwd"),
    ("GET", "/file=/etc/passwd"),
    ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"),
    ("GET", "/static/../../../etc/passwd"),
    ("GET", "/static/%2e%2e/%2e%2e/etc/passwd"),
    ("GET", "/assets/..%2f..%2f..%2fetc%2fpasswd"),
    ("GET", "/gradio_api/info"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/monitoring"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/deep_link?session_hash=x"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/gradio_api/call/generate"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/login"),
    ("GET", "/\x00"),
    ("GET", "/%00/%ff"),
    ("GET", "/" + "a" * 5000),
    ("PUT", "/"),
    ("OPTIONS", "/gradio_api/queue/join"),
    ("TRACE", "/"),
]
HOSTILE_QUERIES = [
    ("GET", "/?deep_link=../../../../etc/passwd"),
    ("GET", "/config?deep_link=../../../../etc/passwd"),
    ("GET", "/gradio_api/queue/data"),
    ("GET", "/gradio_api/queue/data?session_hash=nobody"),
]
HOSTILE_CAPTIONS = [
    "word " * 5000,
    "a" * 60_000,
    "🦓" * 399,
    "👩‍👩‍👧‍👦 🏳️‍🌈 é́́́" + "̀" * 300,
    *(f"a red{chr(code)}apple" for code in (*range(0x20), *range(0x7F, 0xA0))),
    *(
        f"a{chr(code)}car"
        for code in (0x200B, 0x200F, 0x2028, 0x2029, 0x202E, 0x2066, 0xFEFF, 0xFFFD, 0xE000, 0x10FFFF)
    ),
    "a \ud800 car",
    "<script>alert(1)</script> apple",
    "<img src=x onerror=alert(1)> apple",
    "</p></div><h1>apple",
    "{{ 7 * 7 }} {% for x in y %} ${7*7} #{7} apple",
    "javascript:alert(1) apple",
    "data:text/html,<b>apple",
    "&lt;b&gt; &#x3c; apple",
    "]]> <!-- apple -->",
    "../../etc/passwd apple",
    "/etc/passwd",
    "C:\\Windows\\system32 apple",
    "file:///etc/passwd car",
    "\\\\server\\share car",
    "~/.ssh/id_rsa car",
    "$(touch /tmp/x) `id` ; rm -rf / car",
    "' OR 1=1 -- car",
    "%s %n %x {0} {} car",
    "car" + "\u0000" * 100,
    "NaN",
    "null",
    "None",
    "true",
    "[]",
    "{}",
    "0",
    "-1",
    "1e999",
    "тигр",
    "红苹果",
    "تفاحة حمراء",
    "सेब",
    "ＣＡＲ car",
    "ⓒⓐⓡ",
    "İ ı ß ﬃ car",
    " ",
    "",
    "\t\n",
    "-",
    ".",
    "a",
    "?!" * 100,
]
HOSTILE_VALUES = [
    {name: value}
    for name in ("model", "seed", "images", "noise", "truncation")
    for value in ("", "x", "../../etc/passwd", "<b>", "NaN", "1", True, -1, 0.5, 1e308, -1e308, 10**30)
] + [{"caption": value} for value in (None, True, 0, -1.5)]
HOSTILE_VALUES += [{"model": BROKEN}]


def test_two_hundred_hostile_requests_leave_no_trace_and_the_page_answers_still(client, leaks):
    paths = HOSTILE_PATHS + HOSTILE_QUERIES
    assert len(paths) + len(HOSTILE_CAPTIONS) + len(HOSTILE_VALUES) >= 200
    for method, path in paths:
        said = _raw(client, method, path)
        if (method, path) in HOSTILE_PATHS:  # gradio does not even see it
            assert "There is nothing here." in said or "Invalid HTTP request" in said, (method, path)
        assert not leaks.search(said), (method, path)
        assert "root:" not in said
    for changed in [{"caption": caption} for caption in HOSTILE_CAPTIONS] + HOSTILE_VALUES:
        body = json.dumps({"session_hash": "s", "fn_index": client.generate, "data": values(**changed)})
        if len(body.encode()) > 64 * 1024:
            assert client.http.post(JOIN, content=body, headers=JSON).status_code == 413
            continue
        said = client.ask(values(**changed))
        assert said.startswith('<div class="dm-answer">'), changed
        assert not leaks.search(said), changed
        assert "<script" not in said
        assert "<img src=x" not in said
    assert 'alt="a red apple, 128 by 128 pixels"' in client.ask(values())


def _raw(client, method, path):
    """Status line, headers and the first of the body, for a path as it is written."""
    host, port = client.http.base_url.host, client.http.base_url.port
    with socket.create_connection((host, port), timeout=20) as line:
        asked = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        line.sendall(asked.encode("latin-1"))
        said = b""
        while part := line.recv(65536):
            said += part
            if len(said) > 3_000_000:
                break
    return said.decode("latin-1")


def test_the_queue_holds_when_many_ask_at_once(address):
    answers = []

    def visit():
        answers.append(Client(address).ask(values(images=4)))

    visitors = [threading.Thread(target=visit) for _ in range(40)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    served = [answer for answer in answers if answer is not None]
    assert len(answers) == 40
    assert len(set(served)) == 1, "each got the same images"
    assert len(served) >= 16, "as many as may wait are served"
    assert Client(address).ask(values()) is not None


def test_a_full_queue_says_so(address, studio):
    client = Client(address)
    with studio._one_at_a_time:  # nobody is served
        replies = [client.join(values()) for _ in range(30)]
        refused = [reply for reply, _ in replies if reply.status_code != 200]
        assert refused
        assert {reply.status_code for reply in refused} == {503}
        assert "Queue is full" in refused[0].json()["detail"]
    for reply, session in replies:
        if reply.status_code == 200:
            assert any(event["msg"] == "process_completed" for event in client.events(session))


def test_a_visitor_who_leaves_holds_nobody_up(address, studio):
    client = Client(address)
    with studio._one_at_a_time:
        for _ in range(5):
            assert client.join(values())[0].status_code == 200
        client.http.close()
    assert Client(address).ask(values()) is not None


def test_without_gradio_the_remedy_is_named(monkeypatch, studio):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        InputError, match=r"gradio is not installed; install what the page needs with `pip install 'dmgan-fast\[web\]'`"
    ):
        server.application(studio)


def test_an_address_in_use_is_one_paragraph(studio):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match=r"web: 127\.0\.0\.1:\d+ can't be used: .*; take another --port or --host"),
    ):
        server._listen("127.0.0.1", taken.getsockname()[1])


def test_nothing_is_told_to_anybody(monkeypatch):
    for name in server.SILENT:
        monkeypatch.setenv(name, "yes")
    server._gradio()
    assert {name: os.environ[name] for name in server.SILENT} == {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "FASTAPI_OTEL_AUTO_CONFIGURE": "false",
    }
