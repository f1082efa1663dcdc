# SPDX-License-Identifier: GPL-2.0-or-later
"""The roles of a pair: primary, backup, and what moves between them."""
