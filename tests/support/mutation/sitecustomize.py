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
        return compile(os.environ["MUTANT_SOURCE"], self.path, "exec")


class MutantFinder(MetaPathFinder):
    """Finds the mutated module before any other finder does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != os.environ["MUTANT_MODULE"]:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec and spec.origin:
            spec.loader = MutantLoader(fullname, spec.origin)
        return spec


if "MUTANT_MODULE" in os.environ:
    sys.meta_path.insert(0, MutantFinder())
