from .load import BUNDLED as BUNDLED
from .load import Policy as Policy
from .load import find_folder as find_folder
from .load import licence_of as licence_of
from .load import limits_of as limits_of
from .load import load_policy as load_policy
from .safety import check_folder as check_folder
from .safety import refuse_code as refuse_code
