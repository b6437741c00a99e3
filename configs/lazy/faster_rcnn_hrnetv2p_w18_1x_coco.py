from .common.data import dataloader
from .common.models.faster_rcnn import model
from .common.optim import two_stage as optimizer
from .common.schedule import lr_multiplier_1x as lr_multiplier
from .common.train import train
