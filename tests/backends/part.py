"""Takes a part of the contract of backends where all of it would take minutes; the whole is kept by hand."""

from __future__ import annotations

from collections.abc import Callable

from agilab.testing import BackendTests


def only(*names: str) -> Callable[[type[BackendTests]], type[BackendTests]]:
    """Leave a suite the tests of these names, besides those that it has itself."""

    def take(suite: type[BackendTests]) -> type[BackendTests]:
        assert not [name for name in names if not hasattr(BackendTests, name)]
        for name in dir(BackendTests):
            if name.startswith("test_") and name not in (*names, *vars(suite)):
                setattr(suite, name, None)
        return suite

    return take
