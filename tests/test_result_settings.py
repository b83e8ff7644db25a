"""`result_compression` and `result_extended`: what is stored, and what results say."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from celeriac import Celeriac
from celeriac.documents import instant, view_document
from celeriac.errors import DecodeError, ImproperlyConfigured
from celeriac.inspector import TaskView
from celeriac.model.compression import METHODS, compressor, decompress
from celeriac.model.outcome import MOST_CALL_BYTES, Outcome, decode_outcome, encode_outcome
from celeriac.testing import running_worker
from tests.commands import command
from tests.key_value import DictWorkflows
from tests.patience import PATIENCE
from tests.redis_server import RedisServer

TEXT = "to and fro " * 1000

Make = Callable[..., Celeriac]


def shop(app: Celeriac) -> Celeriac:
    @app.task(name="shop.echo")
    def echo(value: object = None, times: int = 1) -> object:
        return [value] * times if times > 1 else value

    @app.task(name="shop.fail", max_retries=1, retry_backoff=0.01, autoretry_for=(ValueError,))
    def fail(value: object) -> None:
        raise ValueError(value)

    return app


# --- Compression --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_return_value_is_compressed_and_read_whatever_the_reader_sets(make_app: Make, name: str) -> None:
    app = shop(make_app(result_compression=name))
    with running_worker(app):
        long, short = app.tasks["shop.echo"].delay(TEXT), app.tasks["shop.echo"].delay("x" * 900)
        assert long.get(timeout=PATIENCE) == TEXT
        assert short.get(timeout=PATIENCE) == "x" * 900
    assert long.outcome is not None
    assert long.outcome.value is not None
    assert (long.outcome.compression, len(long.outcome.value) < 1000) == (METHODS[name], True)
    assert short.outcome is not None
    assert short.outcome.compression == ""
    app.conf.result_compression = None
    assert long.result == long.get(timeout=PATIENCE) == TEXT
    assert long.to_dict()["value"] == TEXT


def test_what_would_not_shrink_and_what_other_tasks_take_is_stored_as_it_is(make_app: Make) -> None:
    app = shop(make_app(result_compression="zlib"))
    app._backend = DictWorkflows(app.clock)
    echo, noise = app.tasks["shop.echo"], "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    with running_worker(app):
        plain = echo.delay(noise)
        assert plain.get(timeout=PATIENCE) == noise
        chain = (echo.s(TEXT) | echo.s()).delay()
        assert chain.get(timeout=PATIENCE) == TEXT
        chord = (app.canvas.group(echo.s(TEXT), echo.s(TEXT)) | echo.s()).delay()
        assert chord.get(timeout=PATIENCE) == [TEXT, TEXT]
        linked = echo.apply_async((TEXT,), link=echo.s())
        assert linked.get(timeout=PATIENCE) == TEXT
        members = app.canvas.group(echo.s(TEXT), echo.s(TEXT)).delay()
        assert members.get(timeout=PATIENCE) == [TEXT, TEXT]
        results = {"chain": chain, "before": chain.parent, "linked": linked, "member": members[0]}
        used = {name: result.outcome.compression for name, result in results.items()}
    assert used == {"chain": "zlib", "before": "", "linked": "", "member": "zlib"}


def test_a_compressed_value_counts_by_its_whole_size(make_app: Make) -> None:
    app = shop(make_app(result_compression="zlib", result_max_bytes=5000))
    with running_worker(app), pytest.raises(Exception, match=r"more than `result_max_bytes` allows"):
        app.tasks["shop.echo"].delay(TEXT).get(timeout=PATIENCE)


@pytest.mark.parametrize(("name", "compress"), [("zlib", zlib.compress), ("bzip2", bz2.compress),
                                                ("lzma", lzma.compress)])  # fmt: skip
def test_a_value_that_expands_too_far_is_refused_before_it_does(
    make_app: Make, name: str, compress: Callable[[bytes], bytes]
) -> None:
    app = make_app()
    outcome = Outcome(id="x", task="t", state="SUCCESS", value=compress(bytes(20_000_000)), compression=name)
    app.broker.complete(app.backend.store([outcome]))
    with pytest.raises(DecodeError, match=r"expands to more than 16,777,216 bytes.*raise the setting"):
        app.AsyncResult("x").get(timeout=PATIENCE)


@pytest.mark.parametrize("name", sorted(set(METHODS.values())))
def test_a_damaged_value_is_an_error_that_says_so(name: str) -> None:
    good = compressor(name)(TEXT.encode())
    assert decompress(name, good, len(TEXT)) == TEXT.encode()
    for bad in (b"", b"junk", good[:-1], good[: len(good) // 2], good[:1] + b"\xff" + good[2:]):
        with pytest.raises(DecodeError, match="damaged"):
            decompress(name, bad, len(TEXT))
    with pytest.raises(DecodeError, match="more than 10 bytes"):
        decompress(name, good, 10)
    with pytest.raises(DecodeError, match="'snappy', which this version does not know"):
        decompress("snappy", good, 10)


def test_a_dictionary_that_takes_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    with pytest.raises(DecodeError, match="damaged"):
        decompress("lzma", lzma.compress(b"x", filters=filters), 100)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'zstd'.*Known: zlib, gzip, bzip2"):
        Celeriac("shop", result_compression="zstd")


# --- What an outcome says of its call -----------------------------------------------------------------


def test_an_outcome_has_its_call_where_that_is_set_and_results_say_it(make_app: Make) -> None:
    app = shop(make_app(result_extended=True, task_queues=["mail"]))
    with running_worker(app, queues=["mail"]):
        sent = app.tasks["shop.echo"].apply_async((1,), {"times": 2}, queue="mail")
        assert sent.get(timeout=PATIENCE) == [1, 1]
        failed = app.tasks["shop.fail"].apply_async((datetime(2026, 1, 1, tzinfo=UTC),), queue="mail")
        assert isinstance(failed.get(timeout=PATIENCE, propagate=False), ValueError)
        large = app.tasks["shop.echo"].apply_async(("x" * MOST_CALL_BYTES,), queue="mail")
        large.get(timeout=PATIENCE)
    found = app.AsyncResult(sent.id)
    assert (found.name, found.args, found.kwargs) == ("shop.echo", [1], {"times": 2})
    assert (found.queue, found.retries) == ("mail", 0)
    assert found.worker
    assert found.date_done is not None
    assert found.date_done.tzinfo is UTC
    assert found.outcome is not None
    assert found.outcome.call is not None
    assert found.outcome.call.sent_at <= found.outcome.done_at
    assert (failed.args, failed.retries) == ([datetime(2026, 1, 1, tzinfo=UTC)], 1)
    assert (large.args, large.kwargs, large.queue) == (None, None, "mail")
    shown = view_document(TaskView(sent.id, outcome=found.outcome), app, arguments=True)
    assert (shown["args"], shown["kwargs"], shown["queue"]) == ([1], {"times": 2}, "mail")
    assert shown["sent_at"] == instant(found.outcome.call.sent_at)
    assert view_document(TaskView(large.id, outcome=large.outcome), app, arguments=True)["args"] is None
    text = command(app, "tasks", "show", sent.id).stdout
    assert "shop.echo(1, times=2)" in text
    assert "mail" in text
    assert "args" not in view_document(TaskView(sent.id, outcome=found.outcome), app)


def test_the_call_of_a_revoked_task_is_known_too(make_app: Make) -> None:
    app = shop(make_app(result_extended=True))
    result = app.tasks["shop.echo"].delay(1)
    result.revoke()
    with running_worker(app):
        result.get(timeout=PATIENCE, propagate=False)
    assert (result.state, result.args) == ("REVOKED", [1])


def test_without_the_setting_a_result_says_what_every_outcome_has(make_app: Make) -> None:
    app = shop(make_app())
    result = app.tasks["shop.echo"].delay(1)
    other = app.AsyncResult(result.id)
    assert (other.name, other.worker, other.retries, other.date_done) == (None, None, None, None)
    with running_worker(app):
        result.get(timeout=PATIENCE)
    assert (other.name, other.retries) == ("shop.echo", 0)
    assert other.worker
    assert other.date_done is not None
    assert (other.args, other.kwargs, other.queue) == (None, None, None)


@pytest.mark.parametrize("where", ["sqlite", "redis"])
def test_both_are_stored_where_broker_and_backend_are_one(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if where == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        url = server.url
    else:
        url = f"sqlite:///{tmp_path / 'x.db'}"
    app = shop(Celeriac("shop", broker_url=url, result_extended=True, result_compression="zlib"))
    with running_worker(app):
        result = app.tasks["shop.echo"].delay(TEXT)
        assert result.get(timeout=PATIENCE) == TEXT
    assert result.args == [TEXT]
    assert result.outcome is not None
    assert result.outcome.compression == "zlib"
    app.close()


def test_an_outcome_of_an_earlier_version_is_read_and_a_plain_one_is_no_longer() -> None:
    plain = Outcome(id="x", task="t", state="SUCCESS", value=b"1")
    assert set(msgspec.msgpack.decode(encode_outcome(plain))) == {"id", "task", "state", "value"}
    assert decode_outcome(encode_outcome(plain)) == plain
