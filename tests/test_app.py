"""The HTTP API, over a real socket and real services."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pymupdf
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from api.highlight import highlight, pixel_box
from api.services import Services
from pageglass.boxes import format_boxes, parse_boxes
from pageglass.settings import Settings, load_settings
from pageglass.types import Box
from tests.qdrant_http import Fault
from tests.qdrant_http import serve as qdrant_server
from tests.serving import serving
from tests.tiny import pdf

FERRY = (
    "The ferry leaves the northern pier at six, unless fog closes the harbour first.",
    "Tickets cost twelve euros for adults and seven euros for children under fourteen.",
)
TURBINE = ("Turbine 7 was stopped when the bearing temperature passed 92 degrees Celsius.",)


def encrypted_pdf(folder: Path) -> Path:
    """A PDF that opens with the password "secret" only."""
    with pymupdf.open(pdf(folder / "plain.pdf", ["Honey sets slowly."])) as plain:
        plain.save(
            folder / "locked.pdf",
            encryption=5,  # AES-256
            user_pw="secret",
            owner_pw="secret",
        )
    return folder / "locked.pdf"


def pdf_without_pages() -> bytes:
    objects = (b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>")
    out = b"%PDF-1.4\n"
    offsets: list[int] = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj%sendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 3\n0000000000 65535 f \n"
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + b"trailer<</Size 3/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % xref


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("app")
    docs = [pdf(folder / "ferry.pdf", FERRY), pdf(folder / "turbine.pdf", TURBINE)]
    settings = load_settings({"data_dir": folder / "data", "server": {"upload_mb": 1}})
    with Services(settings, command="test") as services:
        for report in services.ingest(docs):
            assert report.outcome == "indexed", report.reason
        services.start_worker()
        yield services


@pytest.fixture(scope="module")
def http(services: Services) -> Iterator[httpx.Client]:
    with (
        serving(services) as address,
        httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
    ):
        yield client


@pytest.fixture
def ferry(http: httpx.Client) -> str:
    return next(d["id"] for d in listed(http) if d["name"] == "ferry.pdf")


def listed(http: httpx.Client) -> list[dict[str, Any]]:
    return http.get("/documents").json()["documents"]


def upload(http: httpx.Client, name: str, data: bytes, **form: str) -> httpx.Response:
    return http.post("/documents", files={"file": (name, data, "application/pdf")}, data=form)


def settled(http: httpx.Client, id: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        document = http.get(f"/documents/{id}").json()
        if document["state"] in ("indexed", "failed"):
            return document
        time.sleep(0.05)
    raise AssertionError(f"{id} did not settle")


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"].endswith(code)
    assert body["title"]
    assert body["detail"]
    assert "\n" not in body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


# Asking


def test_an_answer_cites_pages_one_can_see(http: httpx.Client, ferry: str) -> None:
    response = http.post("/ask", json={"question": "When does the ferry leave the pier?"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["answer_status"] == "answered"
    assert {"answer", "extractive", "pages", "model", "timings_ms"} <= answer.keys()
    assert answer["request_id"] == response.headers["x-request-id"]
    citation = answer["citations"][0]
    assert (citation["document_id"], citation["page"]) == (ferry, 1)
    assert citation["verified"]
    assert all(0 <= share <= 1 for box in citation["boxes"] for share in box)

    plain = http.get(f"/documents/{ferry}/pages/1/image").content
    marked = http.get(citation["image_url"])
    assert marked.headers["content-type"] == "image/jpeg"
    assert_yellow_inside_only(plain, marked.content, [tuple(box) for box in citation["boxes"]])


def test_search_ranks_pages_and_says_why(http: httpx.Client, ferry: str) -> None:
    found = http.post("/search", json={"question": "price of tickets", "top_k": 2}).json()
    assert len(found["pages"]) == 2
    first = found["pages"][0]
    assert (first["document_id"], first["page"], first["page_label"]) == (ferry, 2, "2")
    assert first["document_name"] == "ferry.pdf"
    assert first["why"]["fused_rank"] == 1
    assert {"retriever", "rank", "score"} == first["why"]["retrievers"][0].keys()
    assert http.get(first["image_url"]).status_code == 200


def test_search_keeps_to_the_documents_named(http: httpx.Client) -> None:
    turbine = next(d["id"] for d in listed(http) if d["name"] == "turbine.pdf")
    found = http.post("/search", json={"question": "ferry", "documents": [turbine]}).json()
    assert {page["document_id"] for page in found["pages"]} == {turbine}


# Documents


def test_an_upload_is_accepted_indexed_listed_and_removed(
    http: httpx.Client, tmp_path: Path
) -> None:
    data = pdf(
        tmp_path / "x.pdf", ["Migrating cranes rest on the flooded meadows until the frost."]
    ).read_bytes()
    response = upload(http, "../évil/crane s.pdf", data, collection="birds")
    assert response.status_code == 202
    [document] = response.json()["documents"]
    assert response.headers["location"] == f"/jobs/{document['id']}"
    assert (document["name"], document["collection"]) == ("crane s.pdf", "birds")
    assert settled(http, document["id"])["state"] == "indexed"
    assert [d["id"] for d in http.get("/documents?collection=birds").json()["documents"]] == [
        document["id"]
    ]
    page = http.get(f"/documents/{document['id']}/pages/1", params={"words": True}).json()
    assert page["text"].split() == [word["text"] for word in page["words"]]
    assert (page["page"], page["page_label"]) == (1, "1")
    assert (page["width"], page["height"]) == (595, 842)
    assert "words" not in http.get(f"/documents/{document['id']}/pages/1").json()

    assert http.delete(f"/documents/{document['id']}").status_code == 204
    assert_problem(http.get(f"/documents/{document['id']}"), 404, "document-not-found")
    assert_problem(http.delete(f"/documents/{document['id']}"), 404, "document-not-found")


def test_a_refused_file_does_not_keep_the_others_out(http: httpx.Client, tmp_path: Path) -> None:
    good = pdf(
        tmp_path / "x.pdf", ["Seismic stations recorded a shock off the northern coast at dawn."]
    ).read_bytes()
    files = [("file", ("empty.pdf", b"", "")), ("file", ("good.pdf", good, ""))]
    response = http.post("/documents", files=files)
    assert response.status_code == 202
    body = response.json()
    assert [refused["name"] for refused in body["refused"]] == ["empty.pdf"]
    assert body["refused"][0]["code"] == "not-a-document"
    [document] = body["documents"]
    assert settled(http, document["id"])["state"] == "indexed"
    http.delete(f"/documents/{document['id']}")


@pytest.mark.parametrize("kind", ["text", "damaged", "encrypted", "no pages"])
def test_what_is_no_readable_pdf_ends_as_failed_with_a_reason(
    http: httpx.Client, tmp_path: Path, kind: str
) -> None:
    data = {
        "text": b"this is no PDF",
        "damaged": b"%PDF-1.7\n" + b"\x00\xff" * 500,
        "encrypted": encrypted_pdf(tmp_path).read_bytes(),
        "no pages": pdf_without_pages(),
    }[kind]
    response = upload(http, f"{kind}.pdf", data)
    if response.status_code != 202:
        body = assert_problem(response, response.status_code, response.json()["code"])
        assert body["code"] in ("not-a-document", "document-encrypted")
        return
    document = settled(http, response.json()["documents"][0]["id"])
    assert document["state"] == "failed"
    assert document["reason"]
    assert "\n" not in document["reason"]
    http.delete(f"/documents/{document['id']}")


def test_an_empty_upload_is_refused(http: httpx.Client) -> None:
    before = listed(http)
    assert_problem(upload(http, "empty.pdf", b""), 422, "not-a-document")
    assert_problem(http.post("/documents", data={"collection": "x"}), 422, "request-invalid")
    assert listed(http) == before


def test_an_upload_announced_as_too_large_is_refused_at_once(http: httpx.Client) -> None:
    body = assert_problem(upload(http, "big.pdf", b"x" * 2_000_000), 413, "limit-exceeded")
    assert "1 MB" in body["detail"]
    assert "larger than 1 MB" in body["detail"]


def test_an_upload_is_cut_off_while_it_streams(http: httpx.Client) -> None:
    # The body is never finished: an answer can only come from counting what has come so far.
    address = (http.base_url.host, http.base_url.port or 0)
    head = (
        f"POST /documents HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="big.pdf"\r\n\r\n'
    with socket.create_connection(address, timeout=20) as raw:
        raw.sendall(head.encode())
        for chunk in (part, *[b"x" * 65536] * 20):
            raw.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        answer = raw.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


# Pages


def test_an_image_is_fetched_once(http: httpx.Client, ferry: str) -> None:
    url = f"/documents/{ferry}/pages/1/image"
    first = http.get(url)
    assert first.headers["content-type"] == "image/jpeg"
    assert "max-age" in first.headers["cache-control"]
    tag = first.headers["etag"]
    again = http.get(url, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    marked = http.get(f"{url}?highlight=1000-1000-5000-2000", headers={"If-None-Match": tag})
    assert marked.status_code == 200
    assert marked.headers["etag"] != tag


@pytest.mark.parametrize(
    "boxes",
    ["1-2-3", "5000-0-1000-100", "0-0-10001-5", "a", "1-1-2-2.", ".".join(["0-0-9-9"] * 101)],
)
def test_boxes_that_are_none_are_refused(http: httpx.Client, ferry: str, boxes: str) -> None:
    response = http.get(f"/documents/{ferry}/pages/1/image", params={"highlight": boxes})
    assert_problem(response, 422, "request-invalid")


def test_highlighting_marks_the_boxes_and_nothing_else() -> None:
    page = Image.effect_noise((300, 200), 60).convert("RGB")
    page.paste((255, 255, 255), (50, 40, 250, 160))
    page.paste((0, 0, 0), (60, 60, 70, 70))
    source = io.BytesIO()
    page.save(source, "PNG")
    boxes: list[Box] = [(0.2, 0.25, 0.5, 0.4), (0.4, 0.3, 0.8, 0.5)]
    with Image.open(io.BytesIO(highlight(source.getvalue(), boxes))) as opened:
        marked = opened.convert("RGB")
    areas = [pixel_box(box, page.size) for box in boxes]
    inside = {
        (x, y) for x0, y0, x1, y1 in areas for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)
    }
    for x in range(page.width):
        for y in range(page.height):
            before, after = page.getpixel((x, y)), marked.getpixel((x, y))
            if (x, y) not in inside:
                assert before == after
            elif before == (255, 255, 255):
                assert after == (255, 236, 64)
            elif before == (0, 0, 0):
                assert after == (0, 0, 0)


@given(
    st.lists(
        st.tuples(*[st.floats(0, 1)] * 4).map(
            lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
        ),
        min_size=1,
        max_size=5,
    )
)
def test_boxes_survive_the_address_and_never_shrink(boxes: list[Box]) -> None:
    parsed = parse_boxes(format_boxes(boxes))
    for before, after in zip(boxes, parsed, strict=True):
        assert after[0] <= before[0] + 1e-4
        assert after[1] <= before[1] + 1e-4
        assert after[2] >= before[2] - 1e-9
        assert after[3] >= before[3] - 1e-9
        assert all(abs(a - b) <= 2e-4 for a, b in zip(before, after, strict=True))
    assert parse_boxes(format_boxes(parsed)) == parsed


def assert_yellow_inside_only(plain: bytes, marked: bytes, boxes: list[Any]) -> None:
    """JPEG blurs a little, so only clear changes count."""
    with Image.open(io.BytesIO(plain)) as a, Image.open(io.BytesIO(marked)) as b:
        before, after = a.convert("RGB"), b.convert("RGB")
    assert before.size == after.size
    areas = [pixel_box(box, before.size) for box in boxes]
    changed = 0
    for x in range(0, before.width, 3):
        for y in range(0, before.height, 3):
            was, blue = before.getpixel((x, y)), after.getpixel((x, y))
            assert isinstance(was, tuple)
            assert isinstance(blue, tuple)
            if was[2] - blue[2] > 80:
                changed += 1
                assert any(
                    x0 - 9 <= x <= x1 + 9 and y0 - 9 <= y <= y1 + 9 for x0, y0, x1, y1 in areas
                )
    assert changed


def test_another_file_of_a_name_is_kept_replaces_it_or_is_refused(
    http: httpx.Client, tmp_path: Path
) -> None:
    def sent(text: str, if_exists: str) -> httpx.Response:
        path = tmp_path / f"{text}.pdf"
        if not path.exists():  # made again it would have other bytes
            pdf(path, [f"{text} is what this page of the price list says."])
        form = {"collection": "prices", "if_exists": if_exists}
        return upload(http, "list.pdf", path.read_bytes(), **form)

    def names() -> list[str]:
        listed = http.get("/documents", params={"collection": "prices"}).json()["documents"]
        return [document["id"] for document in listed]

    def finished(id: str) -> str:
        assert settled(http, id)["state"] == "indexed"
        return id

    first = finished(sent("One", "error").json()["documents"][0]["id"])
    assert_problem(sent("Two", "error"), 409, "document-exists")
    second = sent("Two", "replace").json()
    new = second["documents"][0]["id"]
    assert second["replaced"] == [{"document_id": first, "replaced_by": new}]
    finished(new)
    assert names() == [new]
    assert sent("Two", "replace").json()["replaced"] == []
    third = sent("Three", "keep").json()
    assert third["replaced"] == []
    assert names() == [new, third["documents"][0]["id"]]
    assert_problem(sent("Four", "replace"), 409, "document-exists")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('filename="a%22b.pdf"', 'a"b.pdf'),
        ('filename="a\\"b.pdf"', 'a"b.pdf'),
        ('filename="two%0D%0Alines.pdf"', "two lines.pdf"),
        ('filename="50%.pdf"', "50%.pdf"),
        ('filename="Übersicht 2024 – Entwurf.pdf"', "Übersicht 2024 – Entwurf.pdf"),
    ],
)
def test_names_arrive_as_they_were_written(http: httpx.Client, sent: str, kept: str) -> None:
    head = f'--B\r\nContent-Disposition: form-data; name="file"; {sent}\r\n\r\n'
    body = head.encode() + f"no PDF: {sent}".encode() + b"\r\n--B--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=B"}
    taken = http.post("/documents", content=body, headers=kind)
    assert taken.json()["documents"][0]["names"] == [kept]


# What goes wrong


@pytest.mark.parametrize("path", ["/ask", "/search"])
@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"question": ""}, 422, "question-invalid"),
        ({"question": " \n\t "}, 422, "question-invalid"),
        ({"question": "x" * 100_000}, 422, "question-invalid"),
        ({"question": "\u00e9" * 100_000}, 422, "question-invalid"),
        ({"question": "hi", "collection": "a/b"}, 422, "collection-name-invalid"),
        ({"question": "hi", "collection": "../etc"}, 422, "collection-name-invalid"),
        ({"question": "hi", "collection": "nope"}, 404, "collection-not-found"),
        ({"question": "hi", "documents": ["nope"]}, 404, "document-not-found"),
        ({"question": "hi", "top_k": 0}, 422, "request-invalid"),
        ({"question": "hi", "top_k": 1000}, 422, "request-invalid"),
        ({"question": "hi", "topk": 3}, 422, "request-invalid"),
        ({"question": 5}, 422, "request-invalid"),
        ({}, 422, "question-invalid"),
        ([], 422, "request-invalid"),
    ],
)
def test_bad_questions_get_their_own_problem(
    http: httpx.Client, path: str, asked: object, status: int, code: str
) -> None:
    assert_problem(http.post(path, json=asked), status, code)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b'{"question": "\\ud800"}', b'{"question": NaN}', b"null"]
)
def test_bodies_that_are_no_json_are_refused(http: httpx.Client, content: bytes) -> None:
    response = http.post("/ask", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert_problem(response, response.status_code, "request-invalid")


def test_what_this_profile_cannot_do_is_said_and_is_no_fault_of_the_server(
    http: httpx.Client, ferry: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = http.get(f"/documents/{ferry}/pages/1/image", params={"heatmap": "ferry"})
    assert_problem(response, 501, "not-in-profile")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_body_that_is_no_json_is_said_to_be_none(http: httpx.Client) -> None:
    for body in (b"{", b"when does the ferry leave?"):
        response = http.post("/ask", content=body, headers={"content-type": "text/plain"})
        assert "no JSON" in assert_problem(response, 422, "request-invalid")["detail"]


def test_json_bodies_are_bounded(http: httpx.Client) -> None:
    # A question may bring a picture of 10 MB, which is 13.3 MB as base64.
    for size in (1_100_000, 16_000_000):
        code = "question-invalid" if size < 10_000_000 else "limit-exceeded"
        response = http.post("/ask", json={"question": "x" * size})
        assert response.json()["code"] == code
    assert response.status_code == 413


@pytest.mark.parametrize("number", ["0", "-1", "3", "2147483647"])
def test_a_page_out_of_range_is_not_found(http: httpx.Client, ferry: str, number: str) -> None:
    assert_problem(http.get(f"/documents/{ferry}/pages/{number}"), 404, "page-not-found")
    assert_problem(http.get(f"/documents/{ferry}/pages/{number}/image"), 404, "page-not-found")


@pytest.mark.parametrize("number", ["x", "1.5", "9" * 30])
def test_a_page_that_is_no_number_is_refused(http: httpx.Client, ferry: str, number: str) -> None:
    assert_problem(http.get(f"/documents/{ferry}/pages/{number}"), 422, "request-invalid")


def test_unknown_documents_and_collections(http: httpx.Client) -> None:
    assert_problem(http.get("/documents/nope"), 404, "document-not-found")
    assert_problem(http.delete("/documents/nope"), 404, "document-not-found")
    assert_problem(http.get("/documents/nope/pages/1"), 404, "document-not-found")
    assert_problem(http.get("/documents?collection=a/b"), 422, "collection-name-invalid")
    assert_problem(upload(http, "a.pdf", b"x", collection="a/b"), 422, "collection-name-invalid")


def test_unknown_addresses_and_methods(http: httpx.Client) -> None:
    assert_problem(http.get("/nowhere"), 404, "not-found")
    response = http.get("/ask")
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_a_request_id_is_echoed_if_it_is_sane(http: httpx.Client) -> None:
    given_id = "trace-1.2:3_4"
    assert http.get("/livez", headers={"X-Request-Id": given_id}).headers["x-request-id"] == (
        given_id
    )
    for odd in ("", "a b", "x" * 65, "<script>", '"'):
        made = http.get("/livez", headers={"X-Request-Id": odd}).headers["x-request-id"]
        assert made != odd
        assert made.isalnum()
    assert_problem(http.get("/nowhere", headers={"X-Request-Id": given_id}), 404, "not-found")


def test_a_fault_of_ours_says_nothing_of_the_inside(settings: Settings) -> None:
    class Faulty(Services):
        def status(self) -> Any:
            raise RuntimeError("the password is swordfish")

    with Faulty(settings, command="test") as services, serving(services) as address:
        response = httpx.get(f"{address}/status", trust_env=False)
    body = assert_problem(response, 500, "internal")
    assert "swordfish" not in response.text
    assert body["request_id"] in body["detail"]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_other_sites_pages_are_kept_out(http: httpx.Client) -> None:
    elsewhere = {"Origin": "https://example.org"}
    response = http.post("/documents", files={"file": ("a.pdf", b"x")}, headers=elsewhere)
    assert_problem(response, 403, "origin-forbidden")
    assert_problem(http.get("/documents", headers=elsewhere), 403, "origin-forbidden")
    rebound = http.get("/documents", headers={"Host": "evil.example.org"})
    assert_problem(rebound, 403, "origin-forbidden")
    host = f"localhost:{http.base_url.port}"
    own = {"Host": host, "Origin": f"http://{host}"}
    assert http.post("/search", json={"question": "ferry"}, headers=own).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("used_as", ["image", "script", "iframe", "empty"])
def test_another_site_cannot_tell_which_files_are_here(
    http: httpx.Client, services: Services, site: str, used_as: str
) -> None:
    """Browsers say whose page wants a picture, and what as; that it is refused tells nothing."""
    sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": used_as, "Sec-Fetch-Mode": "no-cors"}
    there = services.documents()[0].id
    for id in (there, "0" * 32):
        answer = http.get(f"/documents/{id}/pages/1/image", headers=sent)
        assert_problem(answer, 403, "origin-forbidden")
    assert http.get("/element.js", headers=sent).status_code == 200


def test_a_link_from_another_site_and_pages_of_our_own_work(
    http: httpx.Client, services: Services
) -> None:
    image = f"/documents/{services.documents()[0].id}/pages/1/image"
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    for headers in (link, {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "image"}, {}):
        shown = http.get(image, headers=headers)
        assert shown.status_code == 200
        assert shown.headers["cross-origin-resource-policy"] == "same-origin"
    assert http.get("/element.js").headers["cross-origin-resource-policy"] == "cross-origin"


ODD_ADDRESSES = st.one_of(
    st.sampled_from(["http://[", "http://]", "null", "http://[::1", "//", "http://a:b:c", "\x7f"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
)


@given(ODD_ADDRESSES, st.sampled_from(["GET", "POST"]))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_odd_origin_or_host_is_no_error_of_ours(
    http: httpx.Client, address: str, method: str
) -> None:
    for name in ("Origin", "Host", "Referer"):
        try:
            answer = http.request(
                method, "/search", headers={name: address}, json={"question": "a"}
            )
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            continue  # the client does not send it
        assert answer.status_code < 500, (name, address)


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\n", "\x85", "\u202e", "\u2028"])
def test_names_and_tags_have_no_control_characters(
    http: httpx.Client, services: Services, letter: str
) -> None:
    document = services.documents()[0]
    for change in ({"name": f"a{letter}b"}, {"tags": [f"a{letter}b"]}):
        answer = http.patch(f"/documents/{document.id}", json=change)
        assert_problem(answer, 422, "request-invalid")
    assert services.document(document.id).name == document.name


# The rest


def test_health_status_and_description(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"alive": True}
    ready = http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["ready"]
    assert http.get("/access").json() == {
        "scopes": ["admin", "ask", "ingest", "search"],
        "collections": None,
    }
    version = http.get("/version")
    assert version.json()["profile"] == "lite"
    assert version.json()["needs_key"] is False
    assert version.headers["x-content-type-options"] == "nosniff"
    assert http.get("/status").json()["documents"]["indexed"] >= 2
    assert http.get("/docs").status_code == 200
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/ask", "/search", "/documents", "/livez"} <= paths.keys()
    assert "application/problem+json" in paths["/ask"]["post"]["responses"]["default"]["content"]


def test_the_log_has_a_line_a_request_and_no_question(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="api.facts"):
        http.post("/search", json={"question": "xylophone"}, headers={"X-Request-Id": "log-me"})
        http.get("/documents?collection=secret", headers={"X-Request-Id": "me-too"})
        # A line is written once its answer is out; one of an earlier test may come in between.
        lines: dict[str, dict[str, Any]] = {}
        until = time.monotonic() + 5
        while not {"log-me", "me-too"} <= lines.keys() and time.monotonic() < until:
            told = (vars(r)["fields"] for r in list(caplog.records) if r.name == "api.facts")
            lines = {fields["request_id"]: fields for fields in told}
            time.sleep(0.01)
    first, second = lines["log-me"], lines["me-too"]
    assert (first["request_id"], first["status"]) == ("log-me", 200)
    assert second["path"] == "/documents"
    assert "xylophone" not in str(first)
    assert "secret" not in str(second)
    assert "xylophone" not in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("path", ["/", "/livez", "/documents", "/documents/{}/pages/1/image"])
def test_head_is_answered_as_get_without_a_body(http: httpx.Client, ferry: str, path: str) -> None:
    whole, head = http.get(path.format(ferry)), http.head(path.format(ferry))
    assert head.status_code == whole.status_code == 200
    assert head.content == b""
    for name in ("content-type", "content-length", "etag"):
        assert head.headers.get(name) == whole.headers.get(name)
    assert http.head("/documents/none").status_code == 404
    # It would never end.
    assert http.head("/jobs/events").status_code == 405


def test_long_answers_are_compressed_and_streams_and_images_are_not(
    http: httpx.Client, ferry: str
) -> None:
    wanted = {"Accept-Encoding": "gzip"}
    assert http.get("/openapi.json", headers=wanted).headers["content-encoding"] == "gzip"
    image = http.get(f"/documents/{ferry}/pages/1/image", headers=wanted)
    assert "content-encoding" not in image.headers


def test_a_server_that_takes_nothing_in_is_not_ready(tmp_path: Path) -> None:
    settings = load_settings({"data_dir": tmp_path / "data"})
    with Services(settings, command="test") as services, serving(services) as address:

        def ready() -> httpx.Response:
            return httpx.get(f"{address}/readyz")

        assert ready().status_code == 503
        assert ready().json()["queue"]["detail"] == "no worker takes files in"
        services.start_worker()
        assert ready().status_code == 200
        services.writer.outage = "the disk is full"
        assert ready().json()["queue"]["ready"] is False
        # What it is that fails may tell of documents; the log and /status say it.
        assert "disk" not in ready().text


def test_a_server_whose_store_is_away_is_not_ready_and_lives(tmp_path: Path) -> None:
    with qdrant_server() as qdrant:
        settings = load_settings(
            {
                "data_dir": tmp_path / "data",
                "index": {"url": qdrant.url, "retries": 0, "timeout_seconds": 2},
            }
        )
        with Services(settings, command="test") as services, serving(services) as address:
            services.start_worker()
            assert httpx.get(f"{address}/readyz").json()["store"]["ready"]
            qdrant.faults.extend([Fault(status=503)] * 20)
            response = httpx.get(f"{address}/readyz", timeout=30)
            assert response.status_code == 503
            assert response.json()["store"] == {
                "ready": False,
                "detail": "the store of vectors does not answer",
            }
            assert httpx.get(f"{address}/livez").status_code == 200
