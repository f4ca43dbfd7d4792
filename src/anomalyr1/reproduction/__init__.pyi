from .study import Runner as Runner
from .study import Study as Study
from .study import begin as begin
from .study import settle as settle
