# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtio devices (OASIS virtio 1.2) behind the memory-mapped transport."""
