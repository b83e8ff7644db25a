"""The tests of Celeriac. What several of them share tells the values of an assertion that fails, too."""

import pytest

pytest.register_assert_rewrite("tests.conformance", "tests.fuzz", "tests.promises")
