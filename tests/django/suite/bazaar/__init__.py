from bazaar.celeriac import app

__all__ = ["app"]
