"""Who is asking, as far as turns are concerned."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.access import Window, network_of
from api.keys import Keys
from pageglass.errors import Busy, DocumentNotFound
from tests.served import served


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("?", "?"),
    ],
)
def test_an_ipv6_network_is_one_caller(address: str, caller: str) -> None:
    assert network_of(address) == caller


@given(
    limit=st.integers(1, 4),
    hits=st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 40)), max_size=40),
)
def test_a_minute_never_has_more_than_the_limit(limit: int, hits: list[tuple[str, float]]) -> None:
    window, now = Window(), 0.0
    taken: dict[str, list[float]] = {"a": [], "b": []}
    for who, later in hits:
        now += later
        recent = [at for at in taken[who] if at > now - 60]
        wait = window.hit(who, limit, now)
        assert (wait == 0) == (len(recent) < limit)
        if wait == 0:
            taken[who].append(now)
        else:
            assert wait == pytest.approx(recent[-limit] + 60 - now)


def test_pages_of_other_sites_get_nothing_without_a_key(tmp_path: Path) -> None:
    named = "https://named.example"
    with served(tmp_path, server__origins=[named]) as running:
        http = running.http

        def get(path: str = "/documents", **headers: str) -> httpx.Response:
            return http.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

        for site in ("cross-site", "same-site"):
            image = get("/documents/x/pages/1/image", Sec_Fetch_Site=site, Sec_Fetch_Dest="image")
            assert image.status_code == 403
            assert get(Sec_Fetch_Site=site, Sec_Fetch_Dest="document").status_code == 200
            assert (
                get("/element.js", Sec_Fetch_Site=site, Sec_Fetch_Dest="script").status_code == 200
            )
        for origin in ("https://other.example", "null", "http://[", "http://[::1", "//", "\\"):
            assert get(Origin=origin).status_code == 403
            refused = http.post("/ask", json={"question": "x"}, headers={"Origin": origin})
            assert refused.status_code == 403
        assert get(Origin=named, Sec_Fetch_Site="cross-site").status_code == 200
        assert get(Origin=str(http.base_url).rstrip("/")).status_code == 200
        assert get().headers["cross-origin-resource-policy"] == "same-origin"
        rebound = get(Host="docs.example")
        assert rebound.status_code == 403
        assert 'server.keys = "on"' in rebound.json()["detail"]
        assert get(Authorization="Bearer pgk_wrong").status_code == 401


def test_a_key_bound_to_a_site_works_there_where_no_key_is_needed(tmp_path: Path) -> None:
    site, other = {"Origin": "https://site.example"}, {"Origin": "https://other.example"}
    with served(tmp_path) as running:
        with Keys(tmp_path / "data" / "keys.sqlite") as keys:
            _, secret = keys.add(name="site", scopes=["ask"], origins=[site["Origin"]])
        key = {"Authorization": f"Bearer {secret}"}
        asked = {"Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization,content-type"
        assert running.http.options("/ask", headers=site | asked).status_code == 200
        answer = running.http.get("/documents", headers=site | key)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        found = running.http.post("/search", json={"question": "x"}, headers=site | key)
        assert found.status_code == 200, found.text
        assert running.http.get("/documents", headers=other | key).status_code == 403
        assert running.http.get("/documents", headers=site).status_code == 403


def test_refusals_carry_no_advice_for_whoever_runs_the_server(tmp_path: Path) -> None:
    with served(tmp_path, server__requests_per_minute=50) as running:
        http = running.http
        refused = [
            http.get("/documents/nope"),
            http.get("/jobs/nope"),
            http.post("/jobs/nope/retry"),
            http.post("/extract", json={"schema": {"type": "object"}, "documents": ["nope"]}),
            http.post("/ask", content=b'"' + b"x" * (30 << 20) + b'"'),
        ]
        with Keys(tmp_path / "data" / "keys.sqlite") as keys:
            _, key = keys.add(name="reader", scopes=["search"])
        refused.append(http.get("/status", headers={"Authorization": f"Bearer {key}"}))
        refused += [http.get("/documents/nope") for _ in range(60)][-1:]
    assert {response.status_code for response in refused} == {403, 404, 413, 429, 501}
    for response in refused:
        assert not ADVICE.search(response.text), response.text
        assert set(response.json()) == {"type", "title", "status", "detail", "code", "request_id"}


ADVICE = re.compile(r"`pageglass |pip install|setting |server\.[a-z]|answer\.[a-z]|--[a-z]")


def test_the_command_line_still_gives_the_advice() -> None:
    error = DocumentNotFound.of("nope")
    assert str(error) == "no document 'nope'"
    assert error.for_operator == "no document 'nope' (`pageglass status` lists them)"
    busy = Busy("too much", 3.0, hint="setting server.waiting")
    assert (str(busy), busy.retry_after) == ("too much", 3.0)
    assert busy.for_operator == "too much (setting server.waiting)"
