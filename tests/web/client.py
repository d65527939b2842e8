"""The page's requests without a browser."""

import itertools
import json

import httpx

JSON = {"content-type": "application/json"}
NUMBERS = itertools.count()
VALUES = {"caption": "a red apple", "model": None, "seed": 0, "images": 1, "noise": 1, "truncation": 3}


class Client:
    """One visitor."""

    def __init__(self, address):
        self.http = httpx.Client(base_url=address, timeout=60)
        functions = [each for each in self.http.get("/config").json()["dependencies"] if each["backend_fn"]]
        takes = {len(each["inputs"]): each["id"] for each in functions}
        self.generate, self.between = takes[6], takes[7]

    def join(self, data, function=None, **more):
        """The answer to a request for the queue, and the session it is for."""
        session = f"session-{next(NUMBERS)}"
        number = self.generate if function is None else function
        body = {"session_hash": session, "fn_index": number, "data": data, **more}
        sent = json.dumps(body)  # which httpx would not, of half a surrogate pair
        return self.http.post("/gradio_api/queue/join", content=sent, headers=JSON), session

    def events(self, session):
        with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def ask(self, data, function=None):
        """What the page would show; None if the queue is full."""
        reply, session = self.join(data, function)
        if reply.status_code == 503:
            return None
        assert reply.status_code == 200, reply.text
        for event in self.events(session):
            if event["msg"] == "process_completed":
                assert event["success"], event
                return event["output"]["data"][0]
        raise AssertionError("the answer never came")


def values(**changed):
    """Values of the first form."""
    return list((VALUES | changed).values())
