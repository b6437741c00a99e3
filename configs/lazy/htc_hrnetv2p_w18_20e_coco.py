from .common.data import dataloader
from .common.models.htc import model
from .common.optim import two_stage as optimizer
from .common.schedule import lr_multiplier_20e as lr_multiplier
from .common.train import train

dataloader.train.dataset.names = "coco_2017_train_stuffthing"
dataloader.train.mapper.update(use_instance_mask=True, use_sem_seg=True, sem_seg_classes=183)
train.max_iter = 146600
