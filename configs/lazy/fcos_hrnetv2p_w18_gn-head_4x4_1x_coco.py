from .common.data import dataloader
from .common.models.fcos import model
from .common.optim import fcos as optimizer
from .common.schedule import lr_multiplier_fcos_1x as lr_multiplier
from .common.train import train

dataloader.train.mapper.image_format = "BGR"
