# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong while guests are brought, or found wrong in what was brought."""


class FetchError(Exception):
    """Guests cannot be fetched, or are not what was fetched; the message says why and what to do."""
