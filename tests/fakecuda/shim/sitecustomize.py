"""On PYTHONPATH, in every Python process, workers too: fake CUDA devices where FAKECUDA=1, and a recorded host."""

import os

if os.environ.get("FAKECUDA") == "1":
    import fakecuda

    fakecuda.enable()
if os.environ.get("FAKE_SYSFS"):
    import fakesysfs

    fakesysfs.enable(os.environ["FAKE_SYSFS"])
