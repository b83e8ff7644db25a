"""Fragments, filled in: all those of a page, or those that an open page wants because they have changed.

`application.py` asks for them. An open page asks for several in one request, each by its name and the version that it
has; what is the same is not sent again. A fragment that is the same for all users with the same scopes is filled in
once for all pages that are open at the same address.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from markupsafe import Markup

from celeriac.dashboard.pages import Fragment, Page
from celeriac.dashboard.pulse import Pulse
from celeriac.dashboard.templating import render
from celeriac.dashboard.view import TURN_SECONDS, View
from celeriac.errors import CeleriacError
from celeriac.web.problems import Problem, problem_of

__all__ = ["Fragments", "topics_of"]

MOST_SHARED: Final = 500
SHARE: Final = 10  # an open page keeps the server busy with a fragment for one part in so many of the time, at most


class _Part(NamedTuple):
    """A fragment, filled in."""

    body: Markup
    every: float  # seconds from one fetch by an open page to the next, at least
    version: str = ""  # that of the body
    is_fault: bool = False


class _Key(NamedTuple):
    """What a shared fragment depends on."""

    template: str
    here: str
    is_fragment: bool
    scopes: frozenset[str]


class Fragments:
    """Fills in fragments."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._shared: dict[_Key, tuple[float, asyncio.Future[_Part]]] = {}
        self._version = pulse.version  # of what is shared

    async def all(self, view: View, page: Page) -> dict[str, Markup]:
        """Return the fragments of a page, by name; empty if the user may not see them."""
        shown = [one for one in page.fragments.values() if one.scope is None or view.may(one.scope)]
        parts = await asyncio.gather(*(self._part(view, one) for one in shown))
        return {**dict.fromkeys(page.fragments, Markup("")),
                **{one.name: _framed(view, one, part) for one, part in zip(shown, parts, strict=True)}}  # fmt: skip

    async def changed(self, view: View, page: Page, wanted: Sequence[str]) -> Markup:
        """Return the fragments that an open page wants, but for those that it has already. Raises a `Problem`.

        It wants each by its name and the version that it has: `queues.9f86d081884c7d65`.
        """
        has = {name: version for name, _, version in (one.partition(".") for one in wanted)}
        if unknown := has.keys() - page.fragments.keys():
            raise Problem("not-found", f"This page has no fragment {unknown.pop()!r}.")
        fragments = [page.fragments[name] for name in has]
        parts = await asyncio.gather(*(self._part(view, one) for one in fragments))
        return Markup("").join(_framed(view, one, part) for one, part in zip(fragments, parts, strict=True)
                               if part.is_fault or part.version != has[one.name])  # fmt: skip

    async def _part(self, view: View, fragment: Fragment) -> _Part:
        """Return a fragment, filled in. One that cannot be shown says why, and the others stay."""
        try:
            if fragment.scope is not None:
                view.need(fragment.scope)
            return await (self._common(view, fragment) if fragment.is_shared else _filled(view, fragment))
        except (CeleriacError, Problem) as error:
            return _Part(render("fault.html", view, problem=problem_of(error)), fragment.every, is_fault=True)

    async def _common(self, view: View, fragment: Fragment) -> _Part:
        """Return a fragment as others with the same scopes have it at this time, or had it a moment ago."""
        if self._version != self._pulse.version or len(self._shared) >= MOST_SHARED:
            self._shared.clear()
            self._version = self._pulse.version
        key = _Key(fragment.template, view.here, view.is_fragment, view.user.scopes)
        known, now = self._shared.get(key), time.monotonic()
        if known is None or now >= known[0]:
            filling = asyncio.ensure_future(_filled(view, fragment))
            filling.add_done_callback(_look_at)
            known = self._shared[key] = (now + TURN_SECONDS, filling)
        return await asyncio.shield(known[1])


def topics_of(fragment: Fragment, view: View) -> list[str]:
    """Return the topics of a fragment: in those about a single thing, `{name}` is a part of the path."""
    return [topic.format_map(view.path) for topic in fragment.topics]


async def _filled(view: View, fragment: Fragment) -> _Part:
    begun = time.monotonic()
    body = render(fragment.template, view, **await fragment.show(view))
    took = time.monotonic() - begun
    every = fragment.every if took * SHARE <= fragment.every else float(math.ceil(took * SHARE))
    return _Part(body, every, blake2b(body.encode(), digest_size=8).hexdigest())


def _framed(view: View, fragment: Fragment, part: _Part) -> Markup:
    return render("fragment.html", view, fragment=fragment, topics=topics_of(fragment, view), part=part)


def _look_at(filling: asyncio.Future[_Part]) -> None:
    """Take note of an exception: those who wait get it, and maybe nobody does any more."""
    if not filling.cancelled():
        filling.exception()
