"""Real workers and a real mail server: many failures at once, and a mail server that is away."""

from __future__ import annotations

import signal
from pathlib import Path

from tests import patience
from tests.mail.mail_server import running_mail_server
from tests.patience import wait_for
from tests.promises.harness import LEASE, SHORT_LEASE, Stage


def test_thousands_of_failures_of_three_workers_one_of_them_killed_are_one_mail(stage: Stage, tmp_path: Path) -> None:
    """Two at worst, with one Message-ID: then a worker was killed between sending and noting it."""
    with running_mail_server(tmp_path / "smtp") as server:
        settings = {"mail_admins": "ann@example.org", "mail_url": server.url, "mail_from": "c@example.org",
                    "worker_log_format": "%(message).0s"}  # fmt: skip
        leases = (LEASE, SHORT_LEASE, LEASE)  # the second one is killed
        workers = [stage.worker("-c", "1", name=f"w{number}", worker_lease_seconds=lease, **settings)
                   for number, lease in enumerate(leases)]  # fmt: skip
        plain = stage.app.tasks["victim.plain"]
        count = 10_000 if patience.exact else 2_500
        plain.delay_many([("raises", "no money")] * count)
        wait_for(lambda: stage.counts().ready < count * 0.8, "some failures")
        workers[1].signal_all(signal.SIGKILL)
        wait_for(stage.is_empty, "all failures")
        mails = server.wait_for_mails(1)
        for worker in (workers[0], workers[2]):
            assert worker.stop() == 0
        mails = server.mails()
    assert len({mail.id for mail in mails}) == 1
    assert len(mails) <= 2
    assert mails[0].subject.startswith("[victim] ValueError in victim.plain: ")
    assert "ValueError: no money" in mails[0].text
    assert "plain(how='raises', value='no money')" in mails[0].text


def test_a_mail_waits_in_the_broker_while_the_mail_server_is_away_and_its_worker_is_killed(
    stage: Stage, tmp_path: Path
) -> None:
    with running_mail_server(tmp_path / "first") as server:
        url = server.url
    settings = {"mail_admins": "ann@example.org", "mail_from": "c@example.org"}
    stage.app.conf.update(mail_admins=["ann@example.org"])
    first = stage.worker("-c", "1", name="first", mail_url=url, **settings)
    result = stage.app.mail_admins("Stock", "It is low.")
    wait_for(lambda: result.state == "RETRY", "the first attempt")
    first.signal_all(signal.SIGKILL)
    first.wait()
    assert stage.counts().scheduled == 1
    with running_mail_server(tmp_path / "second") as server:
        stage.worker("-c", "1", name="second", mail_url=server.url, **settings)
        (mail,) = server.wait_for_mails(1)
    assert mail.subject == "[victim] Stock"
