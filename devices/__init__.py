# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory-mapped hardware. A device changes only by a guest access or a delivered event, and sees offsets only."""
