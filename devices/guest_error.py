# SPDX-License-Identifier: GPL-2.0-or-later
"""`GuestError`: the guest misbehaved in a way that no specification gives an answer to, so that guest is stopped."""

from __future__ import annotations


class GuestError(Exception):
    """The guest broke a rule of the machine; the message says which, where, and with what value."""
