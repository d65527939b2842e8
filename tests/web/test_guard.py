"""What reaches gradio and what does not."""

import asyncio
import json

import pytest

from dmgan_fast.web.guard import BODY, CANCEL, HEADERS, JOIN, Guard

GOOD = {"session_hash": "abc", "fn_index": 1, "data": ["a red apple", 3], "trigger_id": 7, "event_data": None}


class Inner:
    """In place of gradio: says what reached it."""

    def __init__(self):
        self.reached = []

    async def __call__(self, scope, receive, send):
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
        self.reached.append((scope["path"], scope["query_string"], body))
        headers = [(b"content-type", b"text/plain"), (b"referrer-policy", b"unsafe-url")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"reached"})


class Answer:
    def __init__(self, sent):
        self.status, self.headers = sent[0]["status"], dict(sent[0]["headers"])
        self.body = b"".join(each.get("body", b"") for each in sent[1:])

    @property
    def says(self):
        return json.loads(self.body)["detail"]


def ask(path, method="GET", query=b"", body=b"", hosts=None, inner=None, **headers):
    inner = inner or Inner()
    parts = [body[start : start + 9000] for start in range(0, len(body), 9000)] or [b""]
    coming = [{"type": "http.request", "body": part, "more_body": k + 1 < len(parts)} for k, part in enumerate(parts)]
    sent = []

    async def receive():
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    named = [(name.encode(), value.encode()) for name, value in {"host": "localhost:7860", **headers}.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": named}
    asyncio.run(Guard(inner, {1: 2}, hosts)(scope, receive, send))
    return Answer(sent), inner.reached


def post(given, path=JOIN, *, sent_as="application/json; charset=utf-8", **options):
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    return ask(path, "POST", body=body, **{"content-type": sent_as}, **options)


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index-1a.js", "/static/fonts/Source Sans Pro/a.woff2", "/favicon.ico"],
)
def test_what_the_page_is_made_of_is_served_without_a_query(path):
    answer, reached = ask(path, query=b"deep_link=../../etc/passwd")
    assert (answer.status, reached) == (200, [(path, b"", b"")])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("POST", "/upload"),
        ("GET", "/gradio_api/upload_progress"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://example.com/"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/generate"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/stream/x"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/runs"),
        ("POST", "/gradio_api/reset"),
        ("GET", "/monitoring"),
        ("POST", "/login"),
        ("GET", "/static/../config.py"),
        ("GET", "/assets/../../secret"),
        ("GET", "/static/other/x"),
        ("DELETE", "/"),
        ("POST", "/"),
        ("GET", "/gradio_api/queue/join"),
    ],
)
def test_nothing_else_exists(method, path):
    answer, reached = ask(path, method)
    assert (answer.status, answer.says, reached) == (404, "There is nothing here.", [])


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/gradio_api/queue/data", b"session_hash=abc-1", 200),
        ("/gradio_api/heartbeat/abc", b"", 200),
        ("/gradio_api/queue/data", b"session_hash=../x", 400),
        ("/gradio_api/queue/data", b"session_hash=a&deep_link=b", 400),
        ("/gradio_api/heartbeat/" + "a" * 65, b"", 404),
    ],
)
def test_events_are_of_a_session(path, query, status):
    answer, reached = ask(path, query=query)
    assert (answer.status, len(reached)) == (status, int(status == 200))


def test_a_request_of_the_page_reaches_gradio_as_it_was_sent():
    body = json.dumps(GOOD).encode()
    assert post(GOOD)[1] == [(JOIN, b"", body)]
    cancel = {"session_hash": "abc", "fn_index": 1, "event_id": "0f"}
    assert post(cancel, CANCEL)[0].status == 200


ODD = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 30000,
    "a list": [1],
    "another function": GOOD | {"fn_index": 2},
    "a function that is no number": GOOD | {"fn_index": "1"},
    "a function that is a truth": GOOD | {"fn_index": True},
    "too few values": GOOD | {"data": ["a"]},
    "too many values": GOOD | {"data": ["a", 1, 2]},
    "values that are no list": GOOD | {"data": {"0": "a", "1": 2}},
    "a file": GOOD | {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 1]},
    "a list in the values": GOOD | {"data": [["a"], 1]},
    "event data": GOOD | {"event_data": {"a": 1}},
    "a token": GOOD | {"oauth_token": "x"},
    "a batch": GOOD | {"batched": True},
    "no session": {name: value for name, value in GOOD.items() if name != "session_hash"},
    "an odd session": GOOD | {"session_hash": "../../x"},
    "a long session": GOOD | {"session_hash": "a" * 65},
    "a trigger that is text": GOOD | {"trigger_id": "x"},
}


@pytest.mark.parametrize("name", ODD)
def test_a_request_that_the_page_would_not_send_does_not(name):
    answer, reached = post(ODD[name])
    assert (answer.status, reached) == (400, [])
    assert answer.says == "This request is not one that the page sends."


def test_cancelling_needs_a_session_and_an_event():
    for given in ({"fn_index": 1}, {"session_hash": "a", "fn_index": 1}, {"session_hash": "a", "event_id": "b"}):
        assert post(given, CANCEL)[0].status == 400


def test_a_large_request_is_refused_before_it_is_read_whole():
    answer, reached = post(GOOD | {"data": ["a" * BODY, 1]})
    assert (answer.status, reached) == (413, [])
    assert answer.says == "The request is too large. Write a shorter caption."


def test_a_request_from_another_page_is_refused():
    assert post(GOOD, origin="http://localhost:7860")[0].status == 200
    for origin in ("http://evil.example", "http://localhost:1", "null"):
        assert post(GOOD, origin=origin)[0].status == 403


@pytest.mark.parametrize(
    "sent_as", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_what_a_form_of_another_page_could_send_is_refused(sent_as):
    answer, reached = post(GOOD, sent_as=sent_as)
    assert (answer.status, answer.says, reached) == (415, "This request is not one that the page sends.", [])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:7860", 200),
        ("LOCALHOST", 200),
        ("evil.example:7860", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_a_local_server_answers_to_its_own_names_only(host, status):
    assert ask("/", hosts=frozenset({"localhost"}), host=host)[0].status == status


def test_every_answer_forbids_to_load_from_elsewhere():
    for path in ("/", "/upload"):
        headers = {name.decode(): value.decode() for name, value in ask(path)[0].headers.items()}
        assert {name: headers[name] for name in HEADERS} == HEADERS


def test_a_fault_inside_is_said_in_plain_words():
    async def broken(scope, receive, send):
        raise RuntimeError("/secret/place")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    with pytest.raises(RuntimeError):  # for the log
        asyncio.run(Guard(broken, {})(scope, None, send))
    assert Answer(sent).status == 500
    assert Answer(sent).says == "The server could not answer. Its log says why."


def test_an_answer_that_breaks_off_is_one_line_in_the_log(caplog):
    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("gone")

    async def send(message):
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(Guard(broken, {})(scope, None, send))
    assert caplog.messages == ["an answer to / broke off: gone"]
    assert caplog.records[0].exc_info is None


def test_a_websocket_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(Inner(), {})({"type": "websocket", "path": "/"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
