"""On PYTHONPATH, in every Python process, workers too: fake CUDA devices where FAKECUDA=1, and a host that is quiet."""

import importlib.util
import os
from pathlib import Path

if os.environ.get("FAKECUDA") == "1":
    import fakecuda

    fakecuda.enable()
if os.environ.get("FAKE_SYSFS"):
    import fakesysfs

    fakesysfs.enable(os.environ["FAKE_SYSFS"])
# Only one file of this name is imported by Python itself: the other tests' has to be run too.
quiet = importlib.util.spec_from_file_location("quiet", Path(__file__).parents[2] / "quiet/sitecustomize.py")
quiet.loader.exec_module(importlib.util.module_from_spec(quiet))
