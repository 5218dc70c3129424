from rigbench.api import forecast as forecast
from rigbench.api import load as load
from rigbench.api import runs as runs

__version__: str
