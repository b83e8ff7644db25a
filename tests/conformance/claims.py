"""What every store of claims promises."""

from __future__ import annotations

import asyncio

from celeriac.ports.claims import ClaimStore
from tests.clock import FakeClock

__all__ = ["ClaimsConformance"]


class ClaimsConformance:
    """Inherit it with fixtures `claims`, and `clock`, the clock by which they expire."""

    async def test_a_key_is_claimed_once_for_its_time(self, claims: ClaimStore, clock: FakeClock) -> None:
        assert await claims.claim("k", b"first", 60.0, clock.now()) is None
        assert await claims.claim("k", b"second", 60.0, clock.now()) == b"first"
        assert await claims.claim("other", b"third", 60.0, clock.now()) is None
        clock.advance(61)
        assert await claims.claim("k", b"fourth", 60.0, clock.now()) is None
        assert await claims.claim("k", b"fifth", 60.0, clock.now()) == b"fourth"

    async def test_who_holds_a_key_does_not_get_it_again(self, claims: ClaimStore, clock: FakeClock) -> None:
        """A value may be the same for every claim: the name of a worker, or what a repeated request says."""
        assert await claims.claim("k", b"same", 60.0, clock.now()) is None
        assert await claims.claim("k", b"same", 60.0, clock.now()) == b"same"

    async def test_looking_takes_nothing(self, claims: ClaimStore, clock: FakeClock) -> None:
        assert await claims.claim("k", b"look", 0.0, clock.now()) is None
        assert await claims.claim("k", b"first", 60.0, clock.now()) is None
        assert await claims.claim("k", b"look", 0.0, clock.now()) == b"first"
        clock.advance(61)
        assert await claims.claim("k", b"look", 0.0, clock.now()) is None

    async def test_of_many_that_claim_a_key_one_gets_it(self, claims: ClaimStore, clock: FakeClock) -> None:
        for _ in range(2):  # first nobody has it, then it has expired
            got = await asyncio.gather(*[claims.claim("k", b"%d" % n, 60.0, clock.now()) for n in range(10)])
            assert got.count(None) == 1
            assert len({value for value in got if value is not None}) == 1
            clock.advance(61)

    async def test_keys_and_values_may_be_anything(self, claims: ClaimStore, clock: FakeClock) -> None:
        keys = ["a", "A", "a ", "http:ann:key", "☃" * 200, "x" * 255]
        for number, key in enumerate(keys):
            assert await claims.claim(key, b"\x00\xff%d" % number, 60.0, clock.now()) is None
        for number, key in enumerate(keys):
            assert await claims.claim(key, b"", 60.0, clock.now()) == b"\x00\xff%d" % number
        assert await claims.claim("empty", b"", 60.0, clock.now()) is None
        assert await claims.claim("empty", b"x", 60.0, clock.now()) == b""
