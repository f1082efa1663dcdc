# SPDX-License-Identifier: GPL-2.0-or-later
"""Time travel: timelines, debuggers, and what is found with them."""
