from .exam import examine as examine
from .make import train as train
from .model import load_model as load_model
from .recipe import NanoRecipe as NanoRecipe
