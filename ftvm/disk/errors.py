# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a side's own images."""

from __future__ import annotations


class DiskFailure(Exception):
    """This side's storage failed (full, bad block). The side leaves its pair; the guest never sees it."""


class DiskRefused(Exception):
    """An image or what is noted beside it cannot be used as it is; the message says why and what to do."""


class ColdStartRefused(DiskRefused):
    """It cannot be known which side's image is the newest."""
