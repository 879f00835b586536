"""Drives Mayfly, a virtual machine monitor for serverless work. Needs nothing but Python's own library."""

from mayfly.agent import Agent, DialOut, Info, ProcessInfo
from mayfly.api import Answer, Api, ApiError, Events
from mayfly.command import Command, Process
from mayfly.frames import AgentError, AgentTimeout
from mayfly.jailer import Bind, Jail, Jailed
from mayfly.process import Ended, Mayfly, wait_ready
from mayfly.sockets import connect, connect_to, vsock_connect

__version__ = "0.1.0"

__all__ = ["Agent", "AgentError", "AgentTimeout", "Answer", "Api", "ApiError", "Bind", "Command", "DialOut", "Ended", "Events", "Info", "Jail",
           "Jailed", "Mayfly", "Process", "ProcessInfo", "connect", "connect_to", "vsock_connect", "wait_ready"]
