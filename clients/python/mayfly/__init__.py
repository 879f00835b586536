"""Drives Mayfly, a virtual machine monitor for serverless work. Needs nothing but Python's own library."""

from mayfly.api import Answer, Api, ApiError, Ended, Events, Mayfly, connect, connect_to, vsock_connect, wait_ready

__all__ = ["Answer", "Api", "ApiError", "Ended", "Events", "Mayfly", "connect", "connect_to", "vsock_connect", "wait_ready"]
