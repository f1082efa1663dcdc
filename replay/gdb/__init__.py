# SPDX-License-Identifier: GPL-2.0-or-later
"""GDB's remote serial protocol over a timeline."""
