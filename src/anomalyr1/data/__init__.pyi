from .loading import SCHEMES as SCHEMES
from .loading import load as load
from .readers import find_images as find_images
from .samples import Samples as Samples
from .sources import LoadedSource as LoadedSource
from .sources import load_source as load_source
from .sources import load_sources as load_sources
