# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's reference page, made from the machine itself: `ftvm machine reference`."""
