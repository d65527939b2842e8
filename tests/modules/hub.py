"""A stand-in of the Hub on this machine: repositories with commits, branches and tags, private ones, uploads."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import torch

from dmgan_fast import TextEncoder, TextEncoderConfig

TOKEN = "hf_secret"


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # branch or tag → commit

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to those of a branch."""
        whole = {**self.commits.get(self.names.get(branch, ""), {}), **files}
        name = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        self.commits[name], self.names[branch] = whole, name
        return name


class Hub(ThreadingHTTPServer):
    """``repositories`` by id; ``downloads``: paths whose content was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.downloads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        owner, name, *verb = unquote(self.path).strip("/").split("/", 4)
        if verb[:1] != ["resolve"]:  # "api/models/OWNER/NAME" and the like, which nobody may ask here
            return self.answer(401)
        _, revision, file = verb
        repository = self.server.repositories.get(f"{owner}/{name}")
        if repository is None or (repository.private and not self.known()):
            return self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        commit = repository.names.get(revision, revision)
        if commit not in repository.commits:
            return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        if file not in repository.commits[commit]:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        body = repository.commits[commit][file]
        if self.command == "GET":
            self.server.downloads.append(f"{owner}/{name}/{file}")
        return self.answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(self.path).strip("/").split("/")
        if path == ["api", "validate-yaml"]:
            return self.answer_json({"errors": [], "warnings": []})
        if not self.known():
            return self.answer_json({"error": "Invalid username or password."}, 401)
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            private = bool(asked.get("private")) or asked.get("visibility") == "private"  # older and newer clients
            self.server.repositories.setdefault(name, Repository(private))
            return self.answer_json({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        repository, verb, branch = self.server.repositories["/".join(path[2:4])], path[4], path[5]
        if verb == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            return self.answer_json({"files": modes})
        assert verb == "commit"
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        commit = repository.commit(files, branch)
        return self.answer_json(
            {
                "success": True,
                "commitOid": commit,
                "commitUrl": f"{self.server.url}/{'/'.join(path[2:4])}/commit/{commit}",
            }
        )


def encoder(seed=0):
    torch.manual_seed(seed)
    return TextEncoder(TextEncoderConfig(vocabulary_size=5, word_channels=4, embedding_channels=3)).eval()
