"""Writes mails: from what is told about failures to an `EmailMessage` with text and HTML.

`mail/post.py` calls this in a child, or for `celeriac mail test`. Whatever comes from failures, settings or the machine
goes through `one_line` before it enters a header, and is escaped in HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from celeriac.mail.details import Details
from celeriac.mail.schedule import PAUSES, Mail, Notice
from celeriac.model.history import FailureSignature
from celeriac.model.mail_server import address_of, one_line
from celeriac.model.masks import masked

__all__ = ["Envelope", "digest_letter", "failure_letter", "plain_letter"]

FRAMES = 5


class Envelope:
    """What all mails of an app have in common: the app's name, sender and recipients."""

    def __init__(self, app: str, sender: str, recipients: Sequence[str], web_url: str | None = None) -> None:
        self.app = one_line(app, 60)
        self.sender = sender
        self.recipients = recipients
        self.web_url = web_url
        self.domain = f"{_token(app) or 'app'}.celeriac"  # the right-hand side of ids

    def message(self, subject: str, name: str, at: float, paragraphs: Iterable[tuple[str, str]],
                thread: str = "") -> EmailMessage:  # fmt: skip
        """Return a mail. `name` makes its Message-ID; `paragraphs` are pairs of an element of HTML and a text."""
        message = EmailMessage(policy=SMTP)
        message["From"] = _address(self.sender)
        message["To"] = [_address(one) for one in self.recipients]
        message["Subject"] = one_line(f"[{self.app}] {subject}")
        message["Date"] = datetime.fromtimestamp(at, UTC)
        message["Message-ID"] = f"<{_token(name) or 'mail'}@{self.domain}>"
        if thread:
            message["In-Reply-To"] = message["References"] = f"<{_token(thread) or 'failure'}@{self.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message["X-Auto-Response-Suppress"] = "All"
        message["List-Id"] = f"<failures.{self.domain}>"
        parts = [(element, _text(text)) for element, text in paragraphs if text]
        # As 7 bits: not every server takes 8, and smtplib does not ask.
        message.set_content("\n\n".join(text for _, text in parts) + "\n", cte="quoted-printable")
        message.add_alternative(_html(parts), subtype="html", cte="quoted-printable")
        return message

    def page(self, signature: str) -> str:
        """Return the address of a signature's page; empty without `web_url`."""
        return f"{self.web_url}/failures/{signature}" if self.web_url else ""


def failure_letter(envelope: Envelope, mail: Mail, details: Details, at: float) -> EmailMessage:
    """Return the mail about one signature."""
    (notice,) = mail.notices[:1]
    one = notice.signature
    what = f"{_short(one.error) or 'Failure'} in {one.task}"
    facts = [f"{_count(notice.count)} since {_instant(notice.since)}" if notice.count else "",
             f"{_count(one.count)} in all" if one.count != notice.count else "",
             f"{one.retries:,} more were tried again" if one.retries else "",
             f"first     {_instant(one.first)}", f"last      {_instant(one.last)}",
             f"workers   {_workers(details, one)}",
             f"page      {envelope.page(one.signature)}" if envelope.web_url else ""]  # fmt: skip
    paragraphs = [("h2", what), ("p", masked(one.title)), ("p", _state(notice)), ("pre", _lines(facts))]
    if details.latest is not None:
        latest = details.latest
        where = f" on {latest.worker}" if latest.worker else ""
        paragraphs.append(("p", f"The latest: {latest.task}[{latest.id}], attempt {latest.attempt}{where}, "
                                f"{_instant(latest.done_at)}"))  # fmt: skip
        if details.call:
            paragraphs.append(("pre", f"    {details.call}"))
        paragraphs.append(("pre", masked(latest.traceback.rstrip() or latest.message)))
    elif one.frames:
        paragraphs.append(("pre", "\n".join(one.frames[-FRAMES:])))
    if details.missing:
        paragraphs.append(("p", details.missing))
    paragraphs += [("p", _next(notice)), ("p", _last(mail)), ("pre", _commands(envelope, one.signature))]
    return envelope.message(f"{what}: {_summary(notice, at)}", mail.name, at, paragraphs, thread=one.signature)


def digest_letter(envelope: Envelope, mail: Mail, at: float, others: int = 0) -> EmailMessage:
    """Return the mail about several signatures. `others`: how many more there are that it does not list."""
    count, total = len(mail.notices) + others, sum(one.count for one in mail.notices)
    paragraphs = [("h2", f"{count:,} kinds of failures"),
                  ("p", "They are told in one mail because there are so many at once.")]  # fmt: skip
    for notice in mail.notices:
        one = notice.signature
        lines = [f"{_short(one.error) or 'Failure'} in {one.task}: {_summary(notice, at)}",
                 f"  {one_line(masked(one.title))}",
                 f"  {envelope.page(one.signature) or f'signature {one.signature}'}"]  # fmt: skip
        paragraphs.append(("pre", "\n".join(lines)))
    if others:
        paragraphs.append(("p", f"… and {others:,} more: celeriac -A {envelope.app} stats failures"))
    paragraphs += [("p", _last(mail)), ("pre", _commands(envelope, "SIGNATURE"))]
    return envelope.message(f"{count:,} kinds of failures: {total:,} ×", mail.name, at, paragraphs)


def plain_letter(envelope: Envelope, subject: str, body: str, name: str, at: float) -> EmailMessage:
    """Return the mail of `app.mail_admins`."""
    return envelope.message(subject, name, at, [("pre", body)])


# --- Sentences -----------------------------------------------------------------------------------------


def _summary(notice: Notice, at: float) -> str:
    if notice.kind == "resolved":
        return f"resolved{f' by {notice.signature.marked_by}' if notice.signature.marked_by else ''}"
    told = f"{notice.count:,} × in {_duration(at - notice.since)}"
    return told if notice.kind == "more" else f"{told} ({notice.kind})"


def _state(notice: Notice) -> str:
    one = notice.signature
    return {
        "new": "It is new.",
        "again": "It has occurred before, and is back after more than a day.",
        "regressed": f"It was marked as resolved{f' by {one.marked_by}' if one.marked_by else ''}, "
                     f"{_instant(one.marked_at)}, and has come back.",
        "resolved": f"It was marked as resolved{f' by {one.marked_by}' if one.marked_by else ''}, "
                    f"{_instant(one.marked_at)}.",
    }.get(notice.kind, "It goes on.")  # fmt: skip


def _next(notice: Notice) -> str:
    if notice.kind == "resolved":
        return "There is a mail if it comes back."
    return f"If it goes on, the next mail about it comes in {_duration(PAUSES[min(notice.step, len(PAUSES) - 1)])}."


def _last(mail: Mail) -> str:
    if mail.last_until is None:
        return ""
    return (f"This is the last mail until {_instant(mail.last_until)}: `mail_max_per_hour` is reached. What fails "
            "until then is counted, and mailed after that.")  # fmt: skip


def _commands(envelope: Envelope, signature: str) -> str:
    app = envelope.app
    return _lines([f"No more mails about it:  celeriac -A {app} stats mark {signature} muted",
                   f"It is repaired:          celeriac -A {app} stats mark {signature} resolved",
                   f"All of them:             celeriac -A {app} tasks --filter signature:{signature}"])  # fmt: skip


def _workers(details: Details, one: FailureSignature) -> str:
    if not details.workers:
        return ", ".join(one.workers) or "?"
    told = ", ".join(f"{worker}: {count:,}" for worker, count in details.workers.items())
    return f"{told} (of the latest {details.looked_at:,} that are kept)"


def _count(count: int) -> str:
    return f"{count:,} failure{'' if count == 1 else 's'}"


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1.0, seconds):.0f} s"


def _short(error: str) -> str:
    return error.rpartition(".")[2]


# --- Forms ---------------------------------------------------------------------------------------------


def _token(text: str) -> str:
    """Return what of a text may be in an id."""
    return re.sub(r"[^A-Za-z0-9-]*\.[^A-Za-z0-9-]*", ".", re.sub(r"[^A-Za-z0-9.-]+", "-", text[:100])).strip(".-")


def _address(text: str) -> Address:
    name, address = address_of(text)
    return Address(display_name=one_line(name), addr_spec=address)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(filter(None, lines))


def _text(text: str) -> str:
    """Return text that can be sent: no control characters but ends of lines and tabs, no lone surrogates."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", "�", lines)


def _html(paragraphs: Sequence[tuple[str, str]]) -> str:
    inner = "\n".join(f"<{element}>{html.escape(text)}</{element}>" for element, text in paragraphs)
    return f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head>\n<body>\n{inner}\n</body></html>\n'
