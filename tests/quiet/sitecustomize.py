"""Lets every rigbench that a test starts find its machine quiet: tests must not depend on what else runs on theirs.

Python imports this at its start from the path that conftest.py sets. What the readings say is tested in test_trust.py.
"""

import importlib.util
import sys


class Quiet:
    """Finds the module that reads the machine, and has its verdict left out."""

    def find_spec(self, name, path=None, target=None):
        if name != "rigbench.work.watch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.verdict.judged = lambda its: its

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Quiet())
