"""What a command sees in its root beside the layers."""

from __future__ import annotations

from engine.vm.socketmount import SocketMount

GuestMount = SocketMount
"""One of them."""
