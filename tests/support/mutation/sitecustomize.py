"""Give one module another source, in each Python process that is started while PYTHONPATH names
this folder: the module MUTANT_MODULE (dotted) the source MUTANT_SOURCE. No file is changed.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


class MutantLoader(SourceFileLoader):
    """Compiles the mutant's source; nothing is cached."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled source of the mutant."""
        return compile(os.environ["MUTANT_SOURCE"], self.path, "exec")


class MutantFinder(MetaPathFinder):
    """Finds the mutated module before any other finder does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the mutated module, with a loader that compiles the mutant's source;
        return None for any other module, which the next finder finds, and if the module is missing.

        :param fullname: The dotted name of a module that is being imported.
        :param path: The search path of its package; None: the module is in no package.
        """
        if fullname != os.environ["MUTANT_MODULE"]:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec and spec.origin:
            spec.loader = MutantLoader(fullname, spec.origin)
        return spec


if "MUTANT_MODULE" in os.environ:
    sys.meta_path.insert(0, MutantFinder())
