"""Templates: the environment of Jinja2, with the words that templates may use. All text is escaped."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from celeriac.dashboard import wording
from celeriac.dashboard.assets import asset_path
from celeriac.dashboard.template_cache import TemplateCache
from celeriac.dashboard.view import View, segment
from celeriac.ports.operations import QueueCounts

__all__ = ["ENVIRONMENT", "compile_all", "condition", "render"]

STATES: Final = {
    "SUCCESS": "success", "FAILURE": "failure", "RETRY": "retry", "REVOKED": "revoked", "IGNORED": "ignored",
    "PENDING": "pending", "STARTED": "active", "ready": "ready", "scheduled": "scheduled", "active": "active",
    "dead": "failure",
}  # fmt: skip
"""The colours of states."""

LINE: Final = 300  # characters of an error's first line
UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
DIGITS: Final = re.compile(r"\d+")


@pass_context
def _ago(context: Context, at: float | None) -> str:
    """Return an instant as how long ago it was, with the instant itself; `live.js` keeps it true.

    To an open page, the instant alone: `live.js` writes the words, and what is the same otherwise need not be sent.
    """
    if not at:
        return wording.NONE
    view: View = context["view"]
    instant, words = wording.instant(at), "" if view.is_fragment else wording.ago(at, view.now)
    return Markup(f'<time datetime="{instant}" title="{instant}" data-at="{at:.3f}">{words}</time>')  # noqa: S704 - numbers


@pass_context
def _asset(context: Context, name: str) -> str:
    return f"{context['prefix']}{asset_path(name)}"


def _state(name: str) -> str:
    """Return a state as a badge: a coloured dot, and its name."""
    kind = STATES.get(name, "pending")
    return Markup('<span class="state {}">{}</span>').format(kind, name.capitalize() if name.isupper() else name)


def _first_line(text: str) -> str:
    """Return the first line of a text."""
    return text.strip().partition("\n")[0][:LINE]


def condition(value: str, name: str) -> str:
    """Return a condition of the grammar of searches (`model/filters.py`): this name has this value."""
    if value and not any(one.isspace() or one in '":,\\' for one in value):
        return f"{name}:{value}"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}:"{quoted}"'


def _pattern(text: str) -> str:
    """Return a text without its numbers, by which a line is the same line when they change."""
    return DIGITS.sub("0", text)


@lru_cache(1024)
def _wrapped(name: str) -> str:
    """Return a name that may be wrapped after its dots and underscores."""
    parts = str(escape(_visible(name)))
    for mark in (".", "_", "-", "/"):
        parts = parts.replace(mark, f"{mark}<wbr>")
    return Markup(parts)  # noqa: S704 - it was escaped


def _visible(value: Any) -> Any:
    """Return text with characters that show nothing, or turn around what follows, as their codes."""
    if isinstance(value, str) and not isinstance(value, Markup) and UNSEEN.search(value):
        return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    return value


def _tally(counts: QueueCounts, count: int) -> str:
    """Return a number of ready or dead messages, as far as the server tells it."""
    shown = counts.shown(count)
    return shown if isinstance(shown, str) else wording.number(shown)


def _exact(value: str) -> str:
    """Return text with all its characters: for the value of a field."""
    return Markup("{}").format(value)


def _environment() -> Environment:
    made = Environment(loader=PackageLoader("celeriac.dashboard"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, auto_reload=False, finalize=_visible,
                       bytecode_cache=TemplateCache(__file__, wording.__file__))  # fmt: skip
    for function in (wording.number, wording.short, wording.rate, wording.percent, wording.duration, wording.instant,
                     wording.error_name, segment):  # fmt: skip
        made.filters[function.__name__] = function
    made.filters.update(ago=_ago, state=_state, wrapped=_wrapped, first_line=_first_line, condition=condition,
                        pattern=_pattern, exact=_exact, tally=_tally)  # fmt: skip
    made.globals.update(asset=_asset)
    return made


ENVIRONMENT: Final = _environment()


def compile_all() -> None:
    """Compile all templates now, or load them as they were compiled before, so that the first page need not."""
    for name in ENVIRONMENT.list_templates():
        ENVIRONMENT.get_template(name)


def render(template: str, view: View, **context: Any) -> Markup:
    """Return a template, filled in."""
    return Markup(ENVIRONMENT.get_template(template).render(view=view, prefix=view.prefix, **context))  # noqa: S704 - it escapes
