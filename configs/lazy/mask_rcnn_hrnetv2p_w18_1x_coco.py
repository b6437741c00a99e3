from .common.data import dataloader
from .common.models.mask_rcnn import model
from .common.optim import two_stage as optimizer
from .common.schedule import lr_multiplier_1x as lr_multiplier
from .common.train import train

dataloader.train.mapper.use_instance_mask = True
