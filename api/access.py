"""Who is asking: API keys, the sites they may be used from, and how often a minute."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Network, ip_address

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.keys import Keys, KeyScope
from api.problems import pageglass_problem, request_id_of
from api.streaming import Asker
from pageglass.errors import KeyForbidden, KeyInvalid, KeyMissing, PageglassError, TooManyRequests

REQUESTS_PER_MINUTE = 600
"""Where keys are needed and neither key nor settings say otherwise: a search shows up to twenty
images, so this is about thirty searches."""

_MINUTE = 60.0

PUBLIC = frozenset(
    "/ /docs /docs.js /element.js /livez /openapi.json /page.css /page.js /readyz"
    " /swagger-ui-bundle.js /swagger-ui.css /version".split()
)
"""Paths that tell nothing about documents and are answered to everybody."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may do. ``key_id`` is None where no key was needed; ``collections`` None means
    all. ``address`` tells callers without a key apart, ``key_name`` gives a key its weight."""

    scopes: frozenset[KeyScope]
    key_id: str | None = None
    collections: tuple[str, ...] | None = None
    key_name: str | None = None
    address: str = ""

    def asker(self, collection: str | None = None) -> Asker:
        """Whose turn a question about ``collection`` (None: all) takes."""
        return Asker(self.key_id or self.address, self.key_name, collection or "")

    def require(self, *scopes: KeyScope) -> None:
        """KeyForbidden where what needs one of ``scopes`` is not the caller's to do."""
        if self.scopes.isdisjoint(scopes):
            raise KeyForbidden(
                f"this API key may not do that: it needs the scope {' or '.join(scopes)}",
                hint=f"`pageglass keys add NAME --scope {scopes[0]}`",
            )

    def require_collection(self, collection: str) -> None:
        """KeyForbidden where a collection, be it there or not, is not the caller's to use."""
        if self.collections is not None and collection not in self.collections:
            raise KeyForbidden(
                f"this API key may not use the collection {collection[:64]!r}: it is limited to"
                f" {', '.join(self.collections)}"
            )

    def require_all(self) -> None:
        """KeyForbidden where the caller does not see every collection."""
        if self.collections is not None:
            raise KeyForbidden("this API key is limited to collections, and that concerns them all")


EVERYTHING = Access(frozenset(("search", "ask", "ingest", "admin")))
"""What the machine's own people may do, where no key is needed."""


def access_of(scope: Scope) -> Access:
    """What the request's caller may do; Authenticate has seen to it."""
    return scope["state"]["access"]


class Authenticate:
    """Finds out who is asking, and refuses whom it does not know or who asks too often.

    A key is honoured where none is needed, too: then it limits. Other credentials are passed over
    there, since programs made for other services always send some.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        needed: bool,
        token: str,
        origins: Sequence[str],
        requests_per_minute: int | None,
    ) -> None:
        """``token`` is that of the data folder's owner: whoever can read it may do everything.
        ``origins`` are the sites from which keys that name none may be used."""
        self._app = app
        self._keys = keys
        self._needed = needed
        self._token = token
        self._origins = tuple(origins)
        self._rate = requests_per_minute or (REQUESTS_PER_MINUTE if needed else None)
        self._window = Window()
        # Of their own: whoever asks must be known before a thread is his.
        self._threads = CapacityLimiter(4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its Access, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if scope["path"] not in PUBLIC:
                scope["state"]["access"] = await self._access(scope)
        except PageglassError as error:
            await pageglass_problem(request_id_of(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _access(self, scope: Scope) -> Access:
        headers = Headers(scope=scope)
        client = scope["client"][0] if scope.get("client") else "?"
        if len(headers.getlist("authorization")) > 1:
            self._count(client, self._rate)
            # A proxy in front may have gone by another one of them.
            raise KeyInvalid("there are several Authorization headers: send one")
        credential = credential_of(headers)
        if hmac.compare_digest(credential.encode(), self._token.encode()):
            return EVERYTHING
        if not is_key(credential):
            self._count(client, self._rate)
            if not self._needed:
                return replace(EVERYTHING, address=network_of(client))
            if credential:
                raise KeyInvalid("this is no API key of Pageglass: they begin with pgk_")
            raise KeyMissing(
                "this server wants an API key: send `Authorization: Bearer KEY`",
                hint="`pageglass keys add` makes one",
            )
        try:
            key = await to_thread.run_sync(self._keys.check, credential, limiter=self._threads)
        except KeyInvalid:
            # Guessing is no use, and must not be free.
            self._count(client, self._rate)
            raise
        self._count(key.id, key.requests_per_minute or self._rate)
        origin = _origin(scope, headers)
        if key.origins:
            allowed = origin in key.origins
        else:
            allowed = origin in (None, _own_origin(scope, headers), *self._origins)
        if not allowed:
            sites = ", ".join(key.origins or self._origins) or "this server itself"
            raise KeyForbidden(
                f"this API key may not be used from here: it is for pages of {sites}"
            )
        return Access(
            frozenset(scope for scope in EVERYTHING.scopes if key.allows(scope)),
            key.id,
            key.collections,
            key.name,
        )

    def _count(self, who: str, limit: int | None) -> None:
        if limit is None:
            return
        wait = self._window.hit(who, limit, time.monotonic())
        if wait:
            raise TooManyRequests(
                f"more than {limit:,} requests a minute: come back a little later",
                max(1.0, wait),
                hint="setting server.requests_per_minute",
            )


class Window:
    """The requests of each caller in the last minute, by a clock that nobody sets.

    The library ``limits`` goes by the time of day: set back, it refuses until that time comes
    again.
    """

    def __init__(self) -> None:
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()

    def hit(self, who: str, limit: int, now: float) -> float:
        """Count a request at ``now`` (seconds, never falling) and give 0; or, of a caller with
        ``limit`` requests in the last minute, count nothing and give the seconds to wait."""
        # Callers stand in the order of their last request: those to be forgotten are in front.
        while self._hits and next(iter(self._hits.values()))[-1] <= now - _MINUTE:
            self._hits.popitem(last=False)
        hits = self._hits.setdefault(who, deque())
        while hits and hits[0] <= now - _MINUTE:
            hits.popleft()
        if len(hits) >= limit:
            return hits[len(hits) - limit] + _MINUTE - now
        hits.append(now)
        self._hits.move_to_end(who)
        return 0


def credential_of(headers: Headers) -> str:
    """What follows Bearer in the Authorization header; "" where nothing does."""
    kind, _, credential = headers.get("authorization", "").partition(" ")
    return credential.strip() if kind.lower() == "bearer" else ""


def is_key(credential: str) -> bool:
    """Whether a credential is meant as an API key of ours, known or not."""
    return credential.startswith("pgk_")


def network_of(address: str) -> str:
    """An address as one caller: of IPv6 the first 64 bits, since one caller has as many below."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv4Address):
        return address
    return str(ip.ipv4_mapped or IPv6Network((int(ip) >> 64 << 64, 64)))


def _origin(scope: Scope, headers: Headers) -> str | None:
    """The site whose page asks; None for what is no page."""
    origin = headers.get("origin")
    if origin is None and headers.get("sec-fetch-site") == "same-origin":
        # Browsers leave it out where a page of our own reads.
        return _own_origin(scope, headers)
    return origin


def _own_origin(scope: Scope, headers: Headers) -> str:
    return f"{scope['scheme']}://{headers.get('host', '')}"
