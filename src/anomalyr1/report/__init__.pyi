from .evaluation_page import write_of_evaluation as write_of_evaluation
from .evaluation_page import write_of_inspections as write_of_inspections
from .inspection_page import About as About
from .inspection_page import outcome as outcome
from .inspection_page import page as page
from .inspection_page import write as write
from .overlays import overlay as overlay
from .text import visible as visible
