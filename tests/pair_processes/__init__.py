# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs as real processes, with real kills and real NBD clients."""
