"""Serve: a database over HTTP, for programs (``/v1``) and for people (``/``).

What needs a web server is imported by ``tuner.serve.app`` and below alone; the extra ``serve`` brings it.
"""
