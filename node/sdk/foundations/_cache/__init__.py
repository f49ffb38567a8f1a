"""What was computed is not computed again: `foundations.cache` and the parts that it is made of.

Start with ``cached.py`` (the decorator), then ``key.py`` (what names a call), ``code.py`` and ``values.py`` (what it
is made of), ``store.py`` and ``daemon.py`` (where values lie), ``container.py`` (their bytes).
"""
