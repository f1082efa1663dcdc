# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries, the log, and whatever drives a machine from them."""
