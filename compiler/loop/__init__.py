"""Level three: scalar loop nests.

``ir`` is the grammar, ``scalar`` the primitive operations, ``math`` the transcendental functions
written with them, ``interpret`` a slow bounds-checking reference, ``text`` the printer.
"""
