"""Lets every rigbench that a test starts find its machine quiet: tests must not depend on what else runs on theirs.

Python imports this at its start from the path that conftest.py sets. What the readings say is tested in test_trust.py.
"""

import importlib.machinery
import importlib.util
import os
import sys


def quiet(module):
    module.verdict.judged = lambda its: its


def hurried(module):
    """A driver that hangs is given up after so many seconds, where the test says it: none really waits for ten."""
    if "TEST_DRIVER_SECONDS" in os.environ:
        module.OPEN_SECONDS = module.CALL_SECONDS = float(os.environ["TEST_DRIVER_SECONDS"])


class Changed:
    """Finds some modules, and has them changed once they are there."""

    wanted = {"rigbench.work.watch": quiet, "rigbench.machine.driver": hurried}  # noqa: RUF012

    def find_spec(self, name, path=None, target=None):
        change = self.wanted.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Changed())

# Another module of this name, which this one hides (that of tests/fakecuda gives a process its CUDA devices), runs too:
# where Python itself imported this one, for that of fakecuda runs this one under another name.
if __name__ == "sitecustomize":
    here = os.path.dirname(os.path.abspath(__file__))
    beside = [folder for folder in sys.path if os.path.abspath(folder) != here]
    if hidden := importlib.machinery.PathFinder.find_spec("sitecustomize", beside):
        hidden.loader.exec_module(importlib.util.module_from_spec(hidden))
