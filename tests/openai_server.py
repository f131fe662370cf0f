"""An OpenAI-compatible server for tests, on loopback, that reads what it is sent.

    with openai_server() as server:
        vlm = OpenAIVlm(server.url, server.model, api_key=None, retries=2)
        server.misbehave("rate_limited", times=1)
        ...
        assert server.requests[-1].body["model"] == server.model

Its one model answers with the sentence of the pages' texts that shares most words with the
question, says yes to a page the more the darker its image is (or, without an image, the more of
the question's words its text has), and transcribes every picture as ``server.transcription``. Asked
for values in the shape of a schema, it gives for ``due_date`` what stands after the words "due
date" (or after those of its description) on a line, and for the list ``rows`` one item for each
line that begins with "Row".
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import sys
import threading
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from PIL import Image, ImageStat

Misbehaviour = Literal[
    "rate_limited",  # 429 with Retry-After: server.retry_after
    "failing",  # 500
    "dropping",  # the connection is closed without an answer
    "hanging",  # no answer until the server ends
    "slow",  # server.pause seconds before each piece of a stream, or before the whole answer
    "broken_body",  # 200 with a body that is no JSON
    "no_choices",  # 200 without choices
    "broken_json",  # the model's text breaks off in the middle of its JSON
    "wrong_page",  # every citation is of page 99
    "invented_quote",  # every quote is of words that stand on no page
    "wrong_types",  # every value is a list
    "first_is_better",  # of two answers, whatever they say
    "echo",  # the model's text is the prompt
    "no_json_schema",  # 400 to response_format
    "short_context",  # 400 to prompts of more than server.context words and images
    "no_logprobs",  # logprobs are left out
    "cut_stream",  # the connection is closed in the middle of a stream
    "unfinished_stream",  # a stream ends in order, but in the middle
    "endless",  # 200 with a body without end, or a stream's line without end; the models', too
    "endless_error",  # 400 with a body without end
    "bomb",  # 200 with a gigabyte in a megabyte of gzip
    "unasked_coding",  # 200 with a Content-Encoding that no client of ours asks for
    "broken_gzip",  # 200 with a body that is not the gzip that it is said to be
    "trickling",  # 200 and a byte of the body every tenth of a second
    "redirecting",  # 307 to server.redirect_to
]

_PAGE = re.compile(r"<page\s+number=\"?(\d+)\"?[^>]*>(.*?)</page>", re.DOTALL | re.IGNORECASE)
_SCHEMA = re.compile(r"<schema>(.*?)</schema>", re.DOTALL)
_QUESTION = re.compile(r"<question>(.*?)</question>", re.DOTALL | re.IGNORECASE)
_REFERENCE = re.compile(r"<reference>(.*?)</reference>", re.DOTALL)
_JUDGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SMALL = frozenset("a an and are at by did do does for from how in is it of on or that the to was"
                   " what when where which who why will with".split())  # fmt: skip
_YES = {"Yes": 0.6, " yes": 0.3, "YES": 0.1}
_NO = {"No": 0.7, " no": 0.2, "no": 0.1}
# What goes to words that are neither yes nor no.
_OTHER = {"The": 0.06, "Maybe": 0.04}


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """All texts of the messages, one a line."""
        return "\n".join(_texts(self.body))

    @property
    def images(self) -> list[Image.Image]:
        """The pictures of the messages, decoded."""
        return _images(self.body)


@dataclass
class OpenAIServer:
    """What a test sees of the server, and what it may change while the server runs."""

    url: str
    model: str
    api_key: str | None
    transcription: str = "NONE"
    saying: str | None = None
    """What the model answers, whatever it is asked, where it is set."""
    body: bytes | None = None
    """What comes for every completion, or as every event of a stream, where it is set."""
    redirect_to: str = ""
    sent: int = 0
    """Bytes of bodies without end that clients took."""
    retry_after: str = "0"
    pause: float = 0.2
    fingerprint: str | None = "fp_test"
    context: int = 300
    requests: list[Request] = field(default_factory=list)
    hung_up: int = 0
    """Clients that went away before they had their answer."""
    _faults: dict[Misbehaviour, tuple[int, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def misbehave(self, kind: Misbehaviour, *, times: float = math.inf, after: int = 0) -> None:
        """Do ``kind`` to the next ``times`` completions it concerns, once there were ``after``;
        several kinds may be on."""
        self._faults[kind] = after, times

    def behave(self) -> None:
        """End every misbehaviour."""
        self._faults.clear()

    @property
    def completions(self) -> list[Request]:
        """The requests for completions, oldest first."""
        return [request for request in self.requests if request.path.endswith("/completions")]

    def _takes(self, kind: Misbehaviour) -> bool:
        """Whether to misbehave so now; counts."""
        with self._lock:
            after, left = self._faults.get(kind, (0, 0))
            if after > 0:
                self._faults[kind] = after - 1, left
            elif left > 0:
                self._faults[kind] = 0, left - 1
            return after == 0 and left > 0


@contextmanager
def openai_server(
    *, model: str = "tests/little-reader", api_key: str | None = None
) -> Generator[OpenAIServer]:
    """A running server; it asks for ``api_key`` where one is given."""
    http = _Http(("127.0.0.1", 0), _Handler)
    server = OpenAIServer(f"http://127.0.0.1:{http.server_address[1]}/v1", model, api_key)
    http.told = server
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._ended.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    told: OpenAIServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), ConnectionError):
            self.told.hung_up += 1
        else:
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if not self._is_admitted({}):
            return
        if self._is_odd():
            return
        if self.path == "/v1/models":
            model = {"id": self.server.told.model, "object": "model", "created": 1, "owned_by": "t"}
            self._json(200, {"object": "list", "data": [model]})
        else:
            self._error(404, "no such path")

    def do_POST(self) -> None:
        server = self.server.told
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if not self._is_admitted(body):
            return
        if self.path != "/v1/chat/completions":
            self._error(404, "no such path")
        elif self._is_odd() or self._is_verbatim(body):
            pass
        elif server._takes("hanging"):
            server._ended.wait()
            self.close_connection = True
        elif server._takes("dropping"):
            self.close_connection = True
        elif server._takes("rate_limited"):
            self._error(429, "too many requests", {"Retry-After": server.retry_after})
        elif server._takes("failing"):
            self._error(500, "out of order")
        elif body.get("model") != server.model:
            self._error(404, f"The model `{body.get('model')}` does not exist.")
        elif "response_format" in body and server._takes("no_json_schema"):
            self._error(400, "response_format json_schema is not supported")
        elif _length(body) > server.context and server._takes("short_context"):
            self._error(
                400, f"This model's maximum context length is {server.context} tokens, too few."
            )
        elif server._takes("broken_body"):
            self._send(200, b"<html>Welcome</html>")
        else:
            self._complete(body)

    def _is_odd(self) -> bool:
        """Whether this was answered with what is no reply."""
        server = self.server.told
        if server._takes("redirecting"):
            self._send(307, b"", {"Location": server.redirect_to + self.path})
        elif server._takes("endless_error"):
            self._endless(400, "application/json", b'{"error": {"message": "', b"no " * 20_000)
        elif server._takes("endless"):
            kind, begin = "application/json", b'{"data": "'
            if server.requests[-1].body.get("stream"):
                kind, begin = "text/event-stream", b"data: "
            self._endless(200, kind, begin, b" " * 60_000)
        elif server._takes("bomb"):
            self._send(200, _bomb(), {"Content-Encoding": "gzip"})
        elif server._takes("unasked_coding"):
            self._send(200, b"\x0b\x00", {"Content-Encoding": "br"})
        elif server._takes("broken_gzip"):
            self._send(200, b"{}", {"Content-Encoding": "gzip"})
        elif server._takes("trickling"):
            self._endless(200, "application/json", b"", b" ", pause=0.1)
        else:
            return False
        return True

    def _is_verbatim(self, asked: dict[str, Any]) -> bool:
        body = self.server.told.body
        if body is None:
            return False
        if asked.get("stream"):
            body = b"data: " + body + b"\n\n"
            self._send(200, body + b"data: [DONE]\n\n", kind="text/event-stream")
        else:
            self._send(200, body)
        return True

    def _endless(
        self, status: int, kind: str, begin: bytes, more: bytes, *, pause: float = 0
    ) -> None:
        server = self.server.told
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(begin)
        while not server._ended.wait(pause):
            self.wfile.write(more)
            server.sent += len(more)

    def _is_admitted(self, body: dict[str, Any]) -> bool:
        server = self.server.told
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.requests.append(Request(self.command, self.path, headers, body))
        if server.api_key and headers.get("authorization") != f"Bearer {server.api_key}":
            self._error(401, "Incorrect API key provided")
            return False
        return True

    def _complete(self, body: dict[str, Any]) -> None:
        server = self.server.told
        pieces, finish = _answer(body, server)
        logprobs = None
        if body.get("logprobs") and not server._takes("no_logprobs"):
            logprobs = _logprobs(body)
            pieces = [max(_top(logprobs), key=lambda top: top["logprob"])["token"]]
        usage = {
            "prompt_tokens": _length(body),
            "completion_tokens": len(pieces),
        }
        usage["total_tokens"] = sum(usage.values())
        common = {"id": "chatcmpl-1", "created": 1, "model": server.model}
        if server.fingerprint:
            common["system_fingerprint"] = server.fingerprint
        if body.get("stream"):
            self._stream(common, pieces, finish, usage, body)
            return
        if server._takes("slow"):
            server._ended.wait(server.pause)
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
        choices = [] if server._takes("no_choices") else [choice]
        self._json(200, {**common, "object": "chat.completion", "choices": choices, "usage": usage})

    def _stream(
        self,
        common: dict[str, Any],
        pieces: list[str],
        finish: str,
        usage: dict[str, int],
        body: dict[str, Any],
    ) -> None:
        server = self.server.told
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def event(choices: list[dict[str, Any]], **more: Any) -> None:
            chunk = {**common, "object": "chat.completion.chunk", "choices": choices, **more}
            self._chunk(f"data: {json.dumps(chunk)}\n\n".encode())

        slow, cut = server._takes("slow"), server._takes("cut_stream")
        unfinished, empty = server._takes("unfinished_stream"), server._takes("no_choices")
        for number, piece in enumerate([] if empty else pieces):
            if slow:
                server._ended.wait(server.pause)
            if cut and number >= len(pieces) // 2:
                self.close_connection = True
                return
            if unfinished and number >= len(pieces) // 2:
                self._chunk(b"")
                return
            event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        if not empty:
            event([{"index": 0, "delta": {}, "finish_reason": finish}])
        if (body.get("stream_options") or {}).get("include_usage"):
            event([], usage=usage)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._json(status, {"error": {"message": message, "type": "error", "code": None}}, headers)

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "application/json",
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@cache
def _bomb() -> bytes:
    zipper = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return b"".join(zipper.compress(bytes(1 << 20)) for _ in range(1024)) + zipper.flush()


def _answer(body: dict[str, Any], server: OpenAIServer) -> tuple[list[str], str]:
    """The model's text in tokens (a word and the space before it), and why it ended."""
    text = "\n".join(_texts(body))
    wants_json = "response_format" in body or '"citations"' in text
    if server._takes("echo"):
        said = text
    elif "word for word" in text and not wants_json:
        said = server.transcription
    elif server.saying is not None:
        said = server.saying
    elif schemas := _SCHEMA.findall(text):
        lines = [line for _, content in _PAGE.findall(text) for line in content.splitlines()]
        values = _values(json.loads(schemas[-1]), [[line, line] for line in lines])
        said = _json(_misread(values, server), server)
    elif references := _REFERENCE.findall(_data(body)):
        said = _json(_verdict(references[-1], _JUDGED.findall(_data(body)), server), server)
    else:
        page, sentence = _best_sentence(text)
        said = sentence or "I do not know."
        if wants_json:
            cited = 99 if server._takes("wrong_page") else page
            quote = "no page says this" if server._takes("invented_quote") else sentence
            found = bool(sentence)
            citations = [{"page": cited, "quote": quote}] if found else []
            said = _json({"found": found, "citations": citations, "answer": sentence}, server)
    pieces = re.findall(r"\s*\S+|\s+$", said)
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or len(pieces)
    return pieces[:limit], "length" if len(pieces) > limit else "stop"


def _json(value: Any, server: OpenAIServer) -> str:
    said = json.dumps(value)
    return said[: len(said) // 2] if server._takes("broken_json") else said


def _data(body: dict[str, Any]) -> str:
    """What the user's messages say: a system message may speak of the marks."""
    messages = [message for message in body["messages"] if message["role"] == "user"]
    return "\n".join(_texts({"messages": messages}))


def _verdict(reference: str, answers: list[str], server: OpenAIServer) -> dict[str, Any]:
    wanted = _words(reference)
    shares = [len(wanted & _words(answer)) / max(1, len(wanted)) for answer in answers]
    reason = f"it has {max(shares):.0%} of the reference's words"
    if len(shares) == 1:
        verdict: Any = "perhaps" if server._takes("wrong_types") else shares[0] == 1
        return {"reason": reason, "correct": verdict}
    if server._takes("first_is_better") or shares[0] > shares[1]:
        return {"reason": reason, "better": "A"}
    return {"reason": reason, "better": "B" if shares[1] > shares[0] else "tie"}


def _values(schema: dict[str, Any], lines: list[list[str]]) -> dict[str, Any]:
    """What ``lines`` (the part that is read, and all of it, to quote) say to a schema."""
    return {name: _value(name, field, lines) for name, field in schema["properties"].items()}


def _value(name: str, schema: dict[str, Any], lines: list[list[str]]) -> Any:
    if schema["type"] == "array":
        begins = re.compile(rf"{name.removesuffix('s')}\b\W*", re.IGNORECASE)
        rows = [(begins.match(part), line) for part, line in lines]
        rows = [(line[begun.end() :], line) for begun, line in rows if begun]
        item = schema["items"]
        if "quote" in item["properties"]:
            return [{"quote": line, "value": _typed(row, item)} for row, line in rows]
        return [_values(item, [[part, line] for part in row.split(", ")]) for row, line in rows]
    if "quote" not in schema["properties"]:
        return _values(schema, lines)
    described = schema.get("description", "").partition(" (")[0]
    for label in (name, described):
        words = re.findall(r"[A-Z]?[a-z]+|\d+", label)
        if not words:
            continue
        labelled = re.compile(r"\b" + r"\W+".join(words) + r"\b\W*(.+)", re.IGNORECASE)
        for part, line in lines:
            if match := labelled.search(part):
                return {"quote": line, "value": _typed(match[1], schema)}
    return {"quote": None, "value": None}


def _typed(said: str, schema: dict[str, Any]) -> Any:
    """The value that ``said`` begins with."""
    wanted = schema["properties"]["value"]
    if "boolean" in wanted["type"]:
        return said.lower().startswith("yes")
    if "enum" in wanted:
        return next((o for o in wanted["enum"] if o and str(o).lower() in said.lower()), None)
    if "format date" in schema.get("description", ""):
        return datetime.strptime(said.strip(" ."), "%d %B %Y").date().isoformat()
    if number := re.search(r"\d[\d,]*(?:\.\d+)?", said):
        digits = number[0].replace(",", "")
        if "number" in wanted["type"]:
            return float(digits)
        if "integer" in wanted["type"]:
            return int(digits)
    return said.strip().rstrip(".")


def _misread(values: Any, server: OpenAIServer) -> Any:
    """The same values, as the server misbehaves."""
    invented, wrong = server._takes("invented_quote"), server._takes("wrong_types")

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(one) for one in value]
        if not isinstance(value, dict):
            return value
        if value.keys() != {"quote", "value"}:
            return {name: changed(inner) for name, inner in value.items()}
        quote = "no page says this" if invented else value["quote"]
        return {"quote": quote, "value": [value["value"]] if wrong else value["value"]}

    return changed(values)


def _best_sentence(text: str) -> tuple[int, str]:
    """The page and sentence sharing most of the question's words, "" where none shares a third."""
    asked = _words(_question(text))
    best, found = 0.0, (0, "")
    for number, content in _PAGE.findall(text):
        for sentence in _sentences(content):
            share = len(asked & _words(sentence)) / max(1, len(asked))
            if share > max(best, 0.33):
                best, found = share, (int(number), sentence)
    return found


def _question(text: str) -> str:
    """The last question between marks, or the last line."""
    marked = _QUESTION.findall(text)
    return marked[-1] if marked else text.strip().splitlines()[-1]


def _sentences(content: str) -> Iterator[str]:
    """Sentences; of a page that has none, the lines."""
    for sentence in re.split(r"(?<=[.!?])\s+", content.strip()):
        yield from [" ".join(sentence.split())] if len(sentence) < 400 else sentence.splitlines()


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - _SMALL


def _logprobs(body: dict[str, Any]) -> dict[str, Any]:
    text = "\n".join(_texts(body))
    images = _images(body)
    if images:
        grey = [ImageStat.Stat(image.convert("L")).mean[0] for image in images]
        yes = 1 - sum(grey) / len(grey) / 255
    else:
        asked = _words(_question(text))
        yes = len(asked & _words(_QUESTION.sub("", text))) / max(1, len(asked))
    yes = min(max(yes, 0.001), 0.999)
    left = 1 - sum(_OTHER.values())
    shares = {word: share * yes * left for word, share in _YES.items()}
    shares |= {word: share * (1 - yes) * left for word, share in _NO.items()}
    ranked = sorted((shares | _OTHER).items(), key=lambda pair: -pair[1])
    top = [
        {"token": word, "logprob": math.log(share), "bytes": list(word.encode())}
        for word, share in ranked[: body.get("top_logprobs") or 0]
    ]
    word, share = ranked[0]
    return {
        "content": [
            {
                "token": word,
                "logprob": math.log(share),
                "bytes": list(word.encode()),
                "top_logprobs": top,
            }
        ]
    }


def _top(logprobs: dict[str, Any]) -> list[dict[str, Any]]:
    return [logprobs["content"][0], *logprobs["content"][0]["top_logprobs"]]


def _parts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for message in body.get("messages", []):
        content = message.get("content") or ""
        if isinstance(content, str):
            yield {"type": "text", "text": content}
        else:
            yield from content


def _length(body: dict[str, Any]) -> int:
    """In tokens: a word is one, an image 64."""
    return len(" ".join(_texts(body)).split()) + 64 * len(_images(body))


def _texts(body: dict[str, Any]) -> list[str]:
    return [part["text"] for part in _parts(body) if part["type"] == "text"]


def _images(body: dict[str, Any]) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in _parts(body) if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
