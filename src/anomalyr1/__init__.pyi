from . import prompts as prompts
from . import report as report
from . import rewards as rewards
from .answers import parse as parse
from .data import load as load
from .inspection.inspector import Inspector as Inspector
from .training.run import train as train
from .version import __version__ as __version__
