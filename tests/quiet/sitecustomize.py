"""Lets every rigbench that a test starts find its machine quiet: tests must not depend on what else runs on theirs.

Python imports this at its start from the path that conftest.py sets. What the readings say is tested in test_trust.py.
"""

import importlib.machinery
import importlib.util
import os
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

# Another module of this name, which this one hides (that of tests/fakecuda gives a process its CUDA devices), runs too:
# where Python itself imported this one, for that of fakecuda runs this one under another name.
if __name__ == "sitecustomize":
    here = os.path.dirname(os.path.abspath(__file__))
    beside = [folder for folder in sys.path if os.path.abspath(folder) != here]
    if hidden := importlib.machinery.PathFinder.find_spec("sitecustomize", beside):
        hidden.loader.exec_module(importlib.util.module_from_spec(hidden))
