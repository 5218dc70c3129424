"""rigbench: is this rig healthy, what can it train, how long will it take, and what will it cost?"""

__version__ = "0.1.0"
