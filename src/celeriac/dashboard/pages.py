"""Pages: what an address shows, of which fragments, and the actions that its forms do. Routes are made from them.

A module of pages has `PAGES`, and adds to it by decorators, as the API's modules do to their `ENDPOINTS`. A page named
`queues` is made of the template `queues/page.html` and of its fragments, each of which has a template
(`queues/list.html`), an address (that of the page, with `?fragment=list`), and topics: when one of them changes, open
pages fetch the fragment again, several in one request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from celeriac.dashboard.view import View

__all__ = ["OFTEN", "READABLY", "SELDOM", "TOPICS", "Action", "Context", "Done", "Entry", "Fragment", "Page", "Pages"]

Context: TypeAlias = Mapping[str, Any]
Show: TypeAlias = Callable[[View], Awaitable[Context]]
Kind: TypeAlias = Literal["done", "warning", "fault"]
Shower = TypeVar("Shower", bound=Show)

TOPICS: Final = ("queues", "workers", "tasks", "failures", "schedules", "audit", "bulk", "workflow")
"""What fragments may be about. `pulse.py` tells when each changes."""

OFTEN: Final = 0.9
"""Seconds from one fetch of a fragment to the next, at least."""

READABLY: Final = 2.0
"""… of a list whose rows come and go: nobody reads them faster."""

SELDOM: Final = 5.0
"""… of one that shows a long time, such as a chart: in a second, nothing of it moves that can be seen."""


class Done(NamedTuple):
    """What an action has done, in words; where to show that, if not where its form was; and how well it went.

    A `fault` has done nothing, and the audit says nothing of it.
    """

    message: str
    to: str | None = None
    kind: Kind = "done"


Act: TypeAlias = Callable[[View], Awaitable["Done | str"]]
Actor = TypeVar("Actor", bound=Act)


class Entry(NamedTuple):
    """An entry of the navigation: its place among them, and the letter that opens it after `g`."""

    place: int
    key: str


class Fragment(NamedTuple):
    """A part of a page."""

    name: str
    template: str
    topics: Sequence[str]
    show: Show
    scope: str | None  # what its user needs besides what the page needs; others do not get it
    is_shared: bool  # whether it is the same for all users with the same scopes: it has no form
    every: float  # seconds from one fetch by an open page to the next, at least


class Page(NamedTuple):
    """What an address shows."""

    name: str
    path: str
    scope: str
    title: str
    under: str  # the entry of the navigation that is marked: the name of a page
    entry: Entry | None
    show: Show
    fragments: dict[str, Fragment]

    @property
    def template(self) -> str:
        """The name of its template."""
        return f"{self.name}/page.html"


class Action(NamedTuple):
    """What a form does."""

    path: str
    scope: str
    summary: str  # for the audit
    act: Act
    audit: bool  # whether the frame writes it down; if not, what it calls does


class Pages:
    """The pages and actions of a module."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}
        self.actions: list[Action] = []

    def __iter__(self) -> Iterator[Page]:
        return iter(self._pages.values())

    def page(self, name: str, path: str, scope: str, title: str, *, under: str | None = None,
             entry: Entry | None = None) -> Callable[[Shower], Shower]:  # fmt: skip
        """Return a decorator that makes a function the page of an address.

        The function returns what the page's template needs, but for the fragments; `title` in it replaces the title.
        It raises what cannot be shown at all: a `Problem`.
        """

        def decorate(function: Shower) -> Shower:
            self._pages[name] = Page(name, path, scope, title, under or name, entry, function, {})
            return function

        return decorate

    def fragment(self, page: str, name: str, topics: Sequence[str] = (), *,
                 scope: str | None = None, shared: bool = False,
                 every: float = OFTEN) -> Callable[[Shower], Shower]:  # fmt: skip
        """Return a decorator that makes a function a fragment of a page, which stands above it in the module.

        The function returns what the fragment's template needs. One without a form may be `shared`: all pages that are
        open at the same address then have it rendered once in a second.
        """

        def decorate(function: Shower) -> Shower:
            self._pages[page].fragments[name] = Fragment(name, f"{page}/{name}.html", topics, function, scope,
                                                         shared, every)  # fmt: skip
            return function

        return decorate

    def action(self, path: str, scope: str, *, audit: bool = True) -> Callable[[Actor], Actor]:
        """Return a decorator that makes a function the action of an address, for forms that are posted to it.

        It returns what was done, in words. Its docstring is what the audit says. The scope is checked before it is
        called; the user's form is `view.form`.
        """

        def decorate(function: Actor) -> Actor:
            summary = (function.__doc__ or "").partition("\n")[0].removesuffix(".")
            self.actions.append(Action(path, scope, summary, function, audit))
            return function

        return decorate
