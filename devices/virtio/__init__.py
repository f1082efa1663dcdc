# SPDX-License-Identifier: GPL-2.0-or-later
"""virtio-mmio version 2 devices (OASIS virtio 1.2)."""
