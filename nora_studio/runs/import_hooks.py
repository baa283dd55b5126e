"""Run code when a module is imported, without importing it."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def when_imported(name: str, act: Callable[[], object]) -> None:
    """Call a function once a top-level module has been imported; at once if it has been already."""
    if name in sys.modules:
        importlib.import_module(name)  # Waits for another thread that is importing it.
        act()
    else:
        sys.meta_path.insert(0, _Watcher(name, act))


class _Watcher(importlib.abc.MetaPathFinder):
    """A finder that wraps one module's own loader, to call a function after the import."""

    def __init__(self, name: str, act: Callable[[], object]) -> None:
        self.name, self.act = name, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None and spec.loader is not None:
                spec.loader = _NotifyingLoader(spec.loader, self)
                return spec
        return None


class _NotifyingLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, watcher: _Watcher) -> None:
        self.loader, self.watcher = loader, watcher

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        if self.watcher in sys.meta_path:
            sys.meta_path.remove(self.watcher)
            self.watcher.act()

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # Optional methods, such as get_resource_reader.
