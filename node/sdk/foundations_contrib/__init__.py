"""Compatibility: the package that Foundations kept its internals in. Only `global_state` is there."""
