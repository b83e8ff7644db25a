"""The project. Django imports this package first, so every process has the app."""

from shop.celeriac import app

__all__ = ["app"]
