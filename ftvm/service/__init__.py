# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients of the driver see, and the journal that outlives the driver."""
