"""`celeriac keys`: makes keys for `security_keys`, and secrets that sign HTTP requests."""

from __future__ import annotations

import click

from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.model.keys import new_key, parse_key, write_caller_key
from celeriac.model.webhook_signatures import new_secret

__all__ = ["command"]


@click.command("keys")
@click.option("--caller", is_flag=True, help="Print the caller's key that belongs to the app's first key.")
@click.option("--webhook", is_flag=True, help="Print a new secret (whsec_…) for callbacks and HTTP tasks.")
@with_session
def command(session: Session, *, caller: bool, webhook: bool) -> None:
    """Print a new random key for the setting `security_keys`.

    With --caller, print a key for programs that call tasks and read results, such as web servers: it cannot sign
    control commands, and no worker runs with it. It belongs to the app's own first key.

    With --webhook, print a secret that signs requests as Standard Webhooks define it: for the setting
    `web_callback_secrets`, and for HTTP tasks.

    \b
    Examples:
      celeriac keys
      export CELERIAC_SECURITY_KEYS="$(celeriac keys)"
      celeriac -A shop keys --caller
      celeriac keys --webhook

    \b
    Exit codes:
      0  success
      1  failure; the reason is on stderr
      2  the command line or the app is invalid
    """
    if caller and webhook:
        raise click.UsageError("--caller and --webhook print different things: give one of them.")
    if webhook:
        echo(new_secret())
        return
    if not caller:
        echo(new_key())
        return
    keys = session.app.conf.security_keys
    if not keys:
        raise click.ClickException("The app has no key that a caller's key could belong to: set `security_keys`.")
    key = parse_key(keys[0])
    if key.operator is None:
        raise click.ClickException("The app's first key is a caller's key already. Use the whole key here.")
    echo(write_caller_key(key))
