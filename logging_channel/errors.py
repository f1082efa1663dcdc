# SPDX-License-Identifier: GPL-2.0-or-later
"""The one failure this package raises about others: the peer or the wire is at fault, never our own code.

Our own mistakes are assertions. A `ChannelError` says what was wrong, where, and what to do about it, and leaves every
object here in the state it had before.
"""

from __future__ import annotations


class ChannelError(Exception):
    """The peer or the wire broke the protocol, or the channel cannot be set up as asked."""
