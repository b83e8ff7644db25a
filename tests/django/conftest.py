"""`suite` is a Django project with tests of its own, which `test_suite.py` runs in processes of their own."""

collect_ignore = ["suite"]
