# SPDX-License-Identifier: GPL-2.0-or-later
"""One module a subcommand; each has a click command called `command`."""
