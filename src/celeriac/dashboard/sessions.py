"""Sessions: who uses the dashboard in a browser.

A session is a cookie: a name, when it ends, a random id, and a MAC of them. Nothing is kept on the server, so that
several servers with the same `web_secret` take each other's; without that setting, sessions end with the server. A
session that was begun with a token stands for that token, and ends with it: the MAC's key is made from the token's
hash, and scopes are looked up for each request.

Whoever needs no session to be known (this machine, as long as there are no tokens; users that `authenticate` knows)
gets one all the same, for the key that forms carry (`Session.id`, against CSRF).
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections import deque
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from celeriac.app.app import Celeriac
from celeriac.dashboard.view import SESSION_SECONDS, Session, prefix_of
from celeriac.web.guard import SAFE, Guard
from celeriac.web.limits import Buckets
from celeriac.web.problems import Problem
from celeriac.web.scopes import ALL, User

__all__ = ["Sessions"]

ONCE_SECONDS: Final = 600.0  # for which a one-time link works
MOST_ENDED: Final = 10_000
MESSAGE_SECONDS: Final = 30
LONGEST_MESSAGE: Final = 1_000  # characters; a cookie has 4,096 bytes
ID: Final = re.compile(r"[0-9a-f]{32}")
CONSOLE: Final = "console!"  # no name of a token


class Sessions:
    """Begins, finds and ends sessions, and tells users by them."""

    def __init__(self, app: Celeriac, guard: Guard, buckets: Buckets) -> None:
        self.guard = guard
        self._app = app
        self._buckets = buckets
        secret: str | None = app.conf.web_secret
        self._key = _mac(secret.encode(), "sessions of the dashboard") if secret else secrets.token_bytes(32)
        self._once: dict[str, float] = {}  # one-time links, and when they expire (monotonic)
        self._ended: deque[str] = deque(maxlen=MOST_ENDED)  # ids

    # --- Users ----------------------------------------------------------------------------------------

    async def user(self, request: Request) -> tuple[User, Session]:
        """Return who makes a request, and the session, which may be new. Raises a `Problem` if nobody may."""
        session = self.find(request)
        if session is not None and session.token:
            self.guard.check_host(request)
            user = self._user_of(session)
            if user is not None:
                self._buckets.take(user.name)
                return user, session
        user = await self.guard.user(request, unsafe=request.method not in SAFE)
        return user, session or Session.new(id=self._former(request))

    def _former(self, request: Request) -> str:
        """Return the id of a session of nobody that a server before this one began: its pages are still open."""
        token, _, id, _ = (*request.cookies.get(self._name(request), "").split("."), "", "", "", "")[:4]
        return id if not token and ID.fullmatch(id) else ""

    def _user_of(self, session: Session) -> User | None:
        if session.token == CONSOLE:
            return User("console", frozenset({ALL}))
        token = self.guard.tokens.all().get(session.token)
        now = self._app.clock.now()
        if token is None or (token.expires_at is not None and now >= token.expires_at.timestamp()):
            return None
        return User(token.name, frozenset(token.scopes))

    # --- Beginning and ending -------------------------------------------------------------------------

    def once(self) -> str:
        """Return a word that begins a session of the person at the console, once, as an administrator."""
        word = secrets.token_urlsafe(24)
        self._once[word] = time.monotonic() + ONCE_SECONDS
        return word

    def begin_once(self, word: str) -> Session | None:
        """Return a new session for such a word; None if it was used, or has expired."""
        until = self._once.pop(word, 0.0)
        return Session.new(CONSOLE) if time.monotonic() < until else None

    def begin(self, request: Request, token: str) -> Session:
        """Return a new session for a token. Raises a `Problem` if there is no such token."""
        self.guard.check_host(request)
        self._buckets.take("sign in")
        user = self.guard.tokens.user(token.strip(), self._app.clock.now())
        if user is None:
            raise Problem("unauthenticated", "This token is unknown, or has expired. `celeriac web token add NAME "
                          "--scope operator` makes one.")  # fmt: skip
        return Session.new(user.name)

    def end(self, session: Session) -> None:
        """End a session before its time."""
        self._ended.append(session.id)

    # --- Forms ----------------------------------------------------------------------------------------

    def csrf(self, session: Session) -> str:
        """Return what forms carry, so that no other site can make them."""
        return _mac(self._key, f"form {session.id}").hex()

    def check(self, session: Session, given: str) -> None:
        """Refuse a form that was not made for this session. Raises a `Problem`."""
        if not hmac.compare_digest(self.csrf(session).encode(), given.encode()):
            raise Problem("forbidden", "Nothing was done: the page was made before the server was started, or for "
                          "another session. It is up to date now; try again.")  # fmt: skip

    # --- Cookies --------------------------------------------------------------------------------------

    def find(self, request: Request) -> Session | None:
        """Return the session of a request; None if there is none, or it has ended."""
        token, until, id, mac = (*request.cookies.get(self._name(request), "").split("."), "", "", "", "")[:4]
        try:
            session = Session(urlsafe_b64decode(token).decode(), int(until), id)
        except (ValueError, Error):
            return None
        if not hmac.compare_digest(self._mac(session).encode(), mac.encode()) or not time.time() < session.until:
            return None
        return None if session.id in self._ended else session

    def keep(self, request: Request, response: Response, session: Session) -> None:
        """Let the browser keep a session."""
        token = urlsafe_b64encode(session.token.encode()).decode()
        value = f"{token}.{session.until}.{session.id}.{self._mac(session)}"
        self._set(request, response, "", value, SESSION_SECONDS)

    def forget(self, request: Request, response: Response) -> None:
        """Let the browser forget its session."""
        self._set(request, response, "", "", 0)

    def _mac(self, session: Session) -> str:
        token = self.guard.tokens.all().get(session.token)
        key = _mac(self._key, token.hash if token is not None else "")
        return _mac(key, f"{session.token} {session.until} {session.id}").hex()

    def _name(self, request: Request) -> str:
        """Return the name of the cookie: cookies do not tell ports apart, so it does."""
        return "__Host-celeriac" if self._is_secure(request) else f"celeriac-{request.url.port or 80}"

    def _is_secure(self, request: Request) -> bool:
        known = urlsplit(self._app.conf.web_url or "")
        return request.url.scheme == "https" or (known.scheme == "https" and known.netloc == request.url.netloc)

    def _set(self, request: Request, response: Response, suffix: str, value: str, seconds: int) -> None:
        secure = self._is_secure(request)
        response.set_cookie(self._name(request) + suffix, value, max_age=seconds, path="/" if secure else
                            prefix_of(request) or "/", secure=secure, httponly=True, samesite="lax")  # fmt: skip

    # --- Messages -------------------------------------------------------------------------------------

    def say(self, request: Request, response: Response, kind: str, message: str) -> None:
        """Let the next page show a message."""
        text = f"{kind} {message[:LONGEST_MESSAGE]}".encode(errors="replace")
        self._set(request, response, "-says", f"{urlsafe_b64encode(text).decode()}.{_mac(self._key, text).hex()}",
                  MESSAGE_SECONDS)  # fmt: skip

    def said(self, request: Request) -> tuple[str, str] | None:
        """Return the kind and the text of the message that the last response left."""
        given, _, mac = request.cookies.get(f"{self._name(request)}-says", "").partition(".")
        try:
            text = urlsafe_b64decode(given)
        except (ValueError, Error):
            return None
        if not given or not hmac.compare_digest(_mac(self._key, text).hex().encode(), mac.encode()):
            return None
        kind, _, message = text.decode().partition(" ")
        return kind, message

    def unsay(self, request: Request, response: Response) -> None:
        """Let the browser forget the message."""
        self._set(request, response, "-says", "", 0)


def _mac(key: bytes, text: str | bytes) -> bytes:
    return hmac.digest(key, text.encode() if isinstance(text, str) else text, sha256)
