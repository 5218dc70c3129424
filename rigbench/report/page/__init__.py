"""One HTML file of a run."""

import logging

# That a home cannot be written is told where it matters, and not of the charts' fonts.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
