"""Sends a mail by SMTP, and tells what went wrong: in words, and whether it may work later.

The task `celeriac.mail` and `celeriac mail test` call `send`; both import this module when they need it, for the
standard library's `email` and `smtplib` take long to import.
"""

from __future__ import annotations

import contextlib
import platform
import re
import smtplib
import socket
import ssl
from collections.abc import Sequence
from email.message import EmailMessage

from celeriac.errors import MailError
from celeriac.model.mail_server import MailServer, address_of, one_line

__all__ = ["own_name", "send"]

Refused = dict[str, tuple[int, bytes]]


def send(server: MailServer, message: EmailMessage, sender: str, recipients: Sequence[str], timeout: float) -> None:
    """Send a mail to these addresses. Raises `MailError`, which knows who did not get it.

    `timeout` is for each answer of the server.
    """
    connection = _connected(server, timeout)
    try:
        refused: Refused = connection.send_message(
            message, address_of(sender)[1], [address_of(one)[1] for one in recipients]
        )
    except smtplib.SMTPRecipientsRefused as error:
        raise _refused(server, error.recipients, recipients) from None
    except smtplib.SMTPSenderRefused as error:
        raise _error(server, f"refuses the sender {address_of(sender)[1]}: {_answer(error)}. Set `mail_from` to an "
                     "address that it accepts", temporary=_may_pass(error.smtp_code)) from None  # fmt: skip
    except smtplib.SMTPDataError as error:
        raise _error(server, f"refuses the mail: {_answer(error)}", temporary=_may_pass(error.smtp_code)) from None
    except (smtplib.SMTPException, OSError) as error:
        raise _error(server, f"ends the conversation: {_reason(error, timeout)}") from None
    finally:
        _leave(connection)
    if refused:
        raise _refused(server, refused, recipients)


def _leave(connection: smtplib.SMTP) -> None:
    """Say goodbye. What goes wrong with that is no matter: the server has answered for the mail before."""
    with contextlib.suppress(smtplib.SMTPException, OSError):
        connection.quit()
    connection.close()


def _connected(server: MailServer, timeout: float) -> smtplib.SMTP:
    """Return a connection that is encrypted and logged in as the URL says. Raises `MailError`."""
    name = own_name()
    try:
        context = _context(server)
        if server.tls == "ssl":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, name, timeout=timeout,
                                                       context=context)  # fmt: skip
        else:
            connection = smtplib.SMTP(server.host, server.port, name, timeout)
    except socket.gaierror as error:
        raise _error(server, f"has a name that cannot be resolved ({error.strerror}). Correct the host in `mail_url`") \
            from None  # fmt: skip
    except ssl.SSLCertVerificationError as error:
        raise _distrust(server, error) from None
    except ssl.SSLError as error:
        raise _error(server, f"does not speak TLS from the start ({error.reason}). Write tls=starttls (port 587) or "
                     "tls=none in `mail_url`") from None  # fmt: skip
    except smtplib.SMTPServerDisconnected as error:
        hint = "" if server.tls == "ssl" else ". If this port is for TLS from the start, write tls=ssl in `mail_url`"
        raise _error(server, f"accepts connections, and does not greet: {_reason(error, timeout)}{hint}") from None
    except smtplib.SMTPResponseException as error:
        raise _error(server, f"does not accept mail now: {_answer(error)}") from None
    except TimeoutError as error:
        hint = "" if server.tls == "ssl" else ", or whether this port wants tls=ssl"
        raise _error(server, f"does not answer: {_reason(error, timeout)}. Check host, port and firewall"
                     f"{hint}") from None  # fmt: skip
    except (smtplib.SMTPException, OSError) as error:
        raise _error(server, f"cannot be reached: {_reason(error, timeout)}. Check host and port in `mail_url`, and "
                     "that the server runs") from None  # fmt: skip
    try:
        _prepare(connection, server, context, timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: smtplib.SMTP, server: MailServer, context: ssl.SSLContext, timeout: float) -> None:
    try:
        connection.ehlo_or_helo_if_needed()
        if server.tls == "starttls":
            connection.starttls(context=context)
        if server.username:
            connection.login(server.username, server.password)
    except ssl.SSLCertVerificationError as error:
        raise _distrust(server, error) from None
    except ssl.SSLError as error:
        raise _error(server, f"fails to begin TLS ({error.reason})") from None
    except smtplib.SMTPAuthenticationError as error:
        answer = _answer(error).replace(server.password, "***")
        raise _error(server, f"refuses the user {one_line(server.username)!r} and the password of `mail_url`: "
                     f"{answer}") from None  # fmt: skip
    except smtplib.SMTPNotSupportedError:
        if server.tls == "starttls" and not isinstance(connection.sock, ssl.SSLSocket):
            raise _error(server, "does not offer STARTTLS. Write tls=ssl (port 465) in `mail_url`, or tls=none if the "
                         "network is trusted") from None  # fmt: skip
        raise _error(server, "asks for no password on this connection. Write tls=starttls or tls=ssl in `mail_url`, or "
                     "leave user and password out") from None  # fmt: skip
    except smtplib.SMTPResponseException as error:
        raise _error(server, f"refuses the conversation: {_answer(error)}") from None
    except (smtplib.SMTPException, OSError) as error:
        raise _error(server, f"ends the conversation: {_reason(error, timeout)}") from None


def _context(server: MailServer) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=server.ca_certs or None)
    except OSError as error:
        raise _error(server, f"cannot be verified: the file ssl_ca_certs={server.ca_certs} of `mail_url` cannot be "
                     f"read ({error.strerror or error})") from None  # fmt: skip
    if not server.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def own_name() -> str:
    """Return this machine's name, as it may be in addresses. (smtplib asks the DNS for it, which may take long.)"""
    labels = [re.sub(r"[^A-Za-z0-9-]", "", label).strip("-")[:63] for label in platform.node().split(".")]
    return ".".join(filter(None, labels))[:200].strip(".-") or "localhost"


# --- Errors --------------------------------------------------------------------------------------------


def _error(server: MailServer, what: str, temporary: bool = True, undelivered: Sequence[str] = ()) -> MailError:
    return MailError(f"The mail server {server} {what}.", temporary=temporary, undelivered=undelivered)


def _distrust(server: MailServer, error: ssl.SSLCertVerificationError) -> MailError:
    return _error(server, f"has a certificate that cannot be trusted: {error.verify_message}. Name the authority that "
                  "signed it: `mail_url` = smtp://…?ssl_ca_certs=/path/to/ca.crt")  # fmt: skip


def _refused(server: MailServer, refused: Refused, recipients: Sequence[str]) -> MailError:
    """Return the error for recipients that were refused: it is worth another attempt for those that may pass later."""
    later = [one for one in recipients if _may_pass(refused.get(address_of(one)[1], (500, b""))[0])]
    told = "; ".join(f"{address}: {code} {one_line(text.decode(errors='replace'))}"
                     for address, (code, text) in list(refused.items())[:5])  # fmt: skip
    return _error(server, f"refuses {len(refused)} of {len(recipients)} recipients: {told}", bool(later), later)


def _may_pass(code: int) -> bool:
    return not 500 <= code < 600


def _answer(error: smtplib.SMTPResponseException) -> str:
    text = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
    return f"{error.smtp_code} {one_line(text)}".rstrip(".")


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return f"nothing came within {timeout:g} s (`mail_timeout`)"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text or type(error).__name__).rstrip(".")
