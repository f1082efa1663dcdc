# SPDX-License-Identifier: GPL-2.0-or-later
"""ftvm: a record/replay fault-tolerant pair of emulated virtual machines."""

__version__ = "0.1.0"
