# SPDX-License-Identifier: GPL-2.0-or-later
"""The hart against an independent reference, instruction by instruction: `python -m tests.isa` (see __main__)."""
