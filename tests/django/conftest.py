"""`suite` is a Django project with tests of its own, `shop` are those of the example: run in processes of their own."""

collect_ignore = ["shop", "suite"]
