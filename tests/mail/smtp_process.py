"""A mail server in a process of its own: aiosmtpd, with TLS, a password, and faults.

    python -m tests.mail.smtp_process FOLDER '{"fault": "hang", …}'

It writes its port to FOLDER/port, and each mail as a line of FOLDER/mails. The fault can be changed while it runs:
FOLDER/fault is read for each mail.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

__all__ = ["main"]

USER, PASSWORD = b"shop", b"s3/cr3t"


class Handler:
    """Takes mails, or fails as it is told."""

    def __init__(self, folder: Path, fault: str) -> None:
        self.folder = folder
        self.fault_file = folder / "fault"
        self.fault_file.write_text(fault)

    def fault(self) -> str:
        return self.fault_file.read_text()

    async def handle_MAIL(self, server: SMTP, session: Session, envelope: Envelope, address: str,  # noqa: N802
                          options: list[str]) -> str:  # fmt: skip
        if self.fault() == "550 sender":
            return "550 5.7.1 this sender may not"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str,  # noqa: N802
                          options: list[str]) -> str:  # fmt: skip
        fault = self.fault()
        if fault == "451" or (fault == "451 bob" and address.startswith("bob")):
            return "451 4.7.1 greylisted, come back later"
        if fault == "550" or (fault == "550 bob" and address.startswith("bob")):
            return "550 5.1.1 nobody has this name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        fault = self.fault()
        if fault == "554 data":
            return "554 5.6.0 looks like spam"
        transport = server.transport
        assert transport is not None
        mail = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "authenticated": session.authenticated,
                "tls": transport.get_extra_info("sslcontext") is not None,
                "content": (envelope.content or b"").decode()}  # fmt: skip
        with (self.folder / "mails").open("a") as file:
            file.write(json.dumps(mail) + "\n")
        if fault == "drop":
            transport.abort()
        return "250 OK"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if self.fault() == "hang at quit":
            await asyncio.Event().wait()
        return "221 Bye"


def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    ok = isinstance(data, LoginPassword) and (data.login, data.password) == (USER, PASSWORD)
    return AuthResult(success=ok, handled=False)


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def main(folder: Path, fault: str = "", certificate: str = "", key: str = "", tls: str = "none",
               auth: bool = False) -> None:  # fmt: skip
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    handler = Handler(folder, fault)

    def protocol() -> SMTP:
        return SMTP(handler, hostname="mail.test", tls_context=context if tls == "starttls" else None,
                    require_starttls=tls == "starttls", authenticator=authenticate if auth else None,
                    auth_required=auth, auth_require_tls=tls == "starttls", loop=loop)  # fmt: skip

    if fault == "hang":
        server: asyncio.Server = await asyncio.start_server(hang, "127.0.0.1", 0)
    else:
        server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context if tls == "ssl" else None)
    (folder / "port.new").write_text(str(server.sockets[0].getsockname()[1]))
    (folder / "port.new").rename(folder / "port")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), **json.loads(sys.argv[2])))
