# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled guests: C sources, and the images built from them."""
