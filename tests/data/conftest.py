"""Shared by the tests of data: a web server."""

from served import server

__all__ = ["server"]
