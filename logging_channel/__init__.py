# SPDX-License-Identifier: GPL-2.0-or-later
"""Ordered, acknowledged delivery of opaque (sequence, bytes) between the two sides of a pair."""
