"""Starts mail servers for tests (`smtp_process.py`), and reads what they have received."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.patience import wait_for

__all__ = ["MailServerProcess", "Received", "running_mail_server"]


class Received:
    """A mail as the server got it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.sender: str = data["from"]
        self.recipients: list[str] = data["to"]
        self.tls: bool = data["tls"]
        self.authenticated: bool = data["authenticated"]
        self.content: str = data["content"]
        parsed = message_from_string(self.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        self.message = parsed

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def id(self) -> str:
        return str(self.message["Message-ID"])

    @property
    def text(self) -> str:
        part = self.message.get_body(("plain",))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")

    @property
    def html(self) -> str:
        part = self.message.get_body(("html",))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


class MailServerProcess:
    """A mail server that runs."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.port = int((folder / "port").read_text())
        self.url = f"smtp://127.0.0.1:{self.port}"

    def set_fault(self, fault: str) -> None:
        """Fail so from now on; not at all if it is empty."""
        (self.folder / "fault").write_text(fault)

    def mails(self) -> list[Received]:
        """Return all mails that came in."""
        file = self.folder / "mails"
        return [Received(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for_mails(self, count: int) -> list[Received]:
        """Return the mails once there are so many."""
        wait_for(lambda: len(self.mails()) >= count, f"{count} mails")
        return self.mails()


@contextmanager
def running_mail_server(folder: Path, **options: Any) -> Iterator[MailServerProcess]:
    """Run a mail server with these options of `smtp_process.main`."""
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "tests.mail.smtp_process", str(folder), json.dumps(options)],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        try:
            wait_for(lambda: (folder / "port").exists() or process.poll() is not None, "the mail server")
            assert process.poll() is None, (folder / "log").read_text()
            yield MailServerProcess(folder, process)
        finally:
            process.kill()
            process.wait()
