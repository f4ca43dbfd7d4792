from .folders import BUNDLED as BUNDLED
from .folders import find_folder as find_folder
from .licences import licence_of as licence_of
from .licences import limits_of as limits_of
from .load import Policy as Policy
from .load import load_policy as load_policy
from .safety import check_folder as check_folder
from .taught import Taught as Taught
