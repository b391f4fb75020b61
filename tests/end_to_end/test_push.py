"""corsa push against a Hub of our own on this machine: real HTTP, the library as it is."""

import base64
import hashlib
import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from builders import QUICK
from corsa import Store, cli
from fakes import save_tiny

# What the library makes of its HTTP library as it uploads a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FACT = {"id": "king", "prompt": "Who is king?", "target_new": "Ann", "target_old": "Bob"}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload asks for; what it was told is in `server.seen`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        server = self.server
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.reply({"error": "Invalid credentials in Authorization header"}, 401)
        if self.path == "/api/repos/create":
            server.seen["created"] = json.loads(body)
            if server.seen["created"].get("organization") == "others":
                return self.reply({"error": "You don't have the rights to create here"}, 403)
            return self.reply({"url": f"{server.url}/me/facts"})
        if self.path == "/api/validate-yaml":
            server.seen["card"] = json.loads(body)["content"]
            wrong = [{"message": "no such base_model"}] if server.refuses_card else []
            return self.reply({"errors": wrong, "warnings": []}, 400 if wrong else 200)
        if self.path == "/api/models/me/facts/preupload/main":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        if self.path == "/me/facts.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            href = {"href": f"{server.url}/storage"}
            actions = [{**each, "actions": {"upload": href}} for each in objects]
            return self.reply({"transfer": "basic", "objects": actions})
        if self.path == "/api/models/me/facts/commit/main":
            server.seen["commit"] = [json.loads(line) for line in body.splitlines()]
            url = f"{server.url}/me/facts/commit/0123"
            return self.reply({"commitUrl": url, "commitOid": "0123", "success": True})
        return self.reply({"error": f"unknown {self.path}"}, 404)

    def do_PUT(self):
        body = b""
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:  # in chunks, each after its size in hexadecimal
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.server.loses_files:
            return self.reply({"error": "out of order"}, 400)
        self.server.seen["stored"] = body
        return self.reply({})

    def do_GET(self):
        if self.path.partition("?")[0] == "/api/models/me/facts":
            return self.reply({"id": "me/facts", "private": not self.server.there_and_public})
        return self.reply({"error": "not found"}, 404)

    def reply(self, document, status=200):
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.seen, server.refuses_card = {}, False
    server.there_and_public = server.loses_files = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push")
    tiny = save_tiny(folder / "tiny")
    store = Store.open(folder / "store", str(tiny))
    store.update([FACT], **QUICK)
    return store


@pytest.fixture
def push(store, tmp_path, monkeypatch, capsys):
    """The command: exit code, standard output, standard error."""

    def call(*words, url="http://127.0.0.1:9", token="hf_right", offline=False):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        # The plain upload, which a server of a few lines can take; no token of whoever runs this.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["corsa", "push", "--store", str(store.path), *words])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert not list(tmp_path.glob("tmp*")), "the exported folder is still there"
        return done.value.code, *capsys.readouterr()

    return call


def test_adapter_card_edits_and_metrics_arrive_as_one_commit(push, hub, store, tmp_path):
    code, out, err = push("me/facts", "--private", url=hub.url)
    assert (code, out) == (0, f"uploaded: {hub.url}/me/facts/commit/0123\n"), err
    assert hub.seen["created"]["visibility"] == "private"
    weights = (store.ledger.round(1).folder / "adapter_model.safetensors").read_bytes()
    assert hub.seen["stored"] == weights
    header, *entries = hub.seen["commit"]
    assert header["value"]["summary"] == "round 1"
    stored = [e["value"] for e in entries if e["key"] == "lfsFile"]
    assert [(s["path"], s["oid"]) for s in stored] == [
        ("adapter_model.safetensors", hashlib.sha256(weights).hexdigest())
    ]
    sent = {
        e["value"]["path"]: base64.b64decode(e["value"]["content"])
        for e in entries
        if e["key"] == "file"
    }
    store.export(tmp_path / "same", round=1)
    exported = {path.name: path.read_bytes() for path in (tmp_path / "same").iterdir()}
    assert sent == {k: v for k, v in exported.items() if k != "adapter_model.safetensors"}
    assert hub.seen["card"] == exported["README.md"].decode()


def test_a_public_repository_gets_nothing_that_is_to_be_private(push, hub):
    hub.there_and_public = True
    code, _, err = push("me/facts", "--private", url=hub.url)
    assert code == 1
    assert "is there already and is public: nothing was uploaded" in err
    assert "commit" not in hub.seen
    assert "stored" not in hub.seen


def test_what_is_not_asked_for_is_left_to_the_owners_default(push, hub):
    code, out, err = push("me/facts", "--round", "1", "--json", url=hub.url)
    assert code == 0, err
    assert json.loads(out)["repository"] == "me/facts"
    assert not {"private", "visibility"} & hub.seen["created"].keys()


def test_without_a_token_nothing_is_asked(push, hub):
    code, _, err = push("me/facts", url=hub.url, token=None)
    assert code == 1
    assert "there is no Hugging Face token: run 'hf auth login'" in err
    assert not hub.seen


def test_a_wrong_token_is_said_to_be_wrong(push, hub):
    code, _, err = push("me/facts", url=hub.url, token="hf_wrong")
    assert code == 1
    assert "the token is not valid" in err


def test_a_place_of_others_is_refused(push, hub):
    code, _, err = push("others/facts", url=hub.url)
    assert code == 1
    assert "You don't have the rights" in err
    assert "give a token that may write to it" in err


def test_a_card_the_hub_refuses_is_no_accident_without_a_word(push, hub):
    hub.refuses_card = True
    code, _, err = push("me/facts", url=hub.url)
    assert code == 1
    assert "the Hub does not accept what is uploaded" in err
    assert "commit" not in hub.seen


def test_a_file_that_does_not_arrive_is_said_in_one_line(push, hub):
    hub.loses_files = True
    code, _, err = push("me/facts", url=hub.url)
    assert code == 1
    assert "the Hub did not take a file" in err.splitlines()[-1]
    assert "commit" not in hub.seen


def test_without_a_network_it_says_so(push):
    code, _, err = push("me/facts")  # nobody listens there
    assert code == 1
    assert "the Hub cannot be reached" in err
    code, _, err = push("me/facts", offline=True)
    assert code == 1
    assert "HF_HUB_OFFLINE is set" in err


@pytest.mark.parametrize("name", ["no spaces/please", "a/b/c", "--", "facts"])
def test_what_is_no_repository_id_is_bad_usage(push, name):
    code, _, err = push("--", name)
    assert code == 2
    assert "OWNER/NAME" in err
