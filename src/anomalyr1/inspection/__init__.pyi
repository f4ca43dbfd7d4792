from .inspector import Inspector as Inspector
from .masks import Sam2 as Sam2
from .masks import masks_for as masks_for
from .samples import samples_of_images as samples_of_images
from .thresholds import Threshold as Threshold
from .thresholds import labels_of as labels_of
