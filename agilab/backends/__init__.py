"""Where requests run: one file per backend, found by name in `agilab.backends.base.BACKENDS`."""
