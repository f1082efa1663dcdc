# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest's network cards are connected to on the host."""
