from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler


def schedule(milestones, warmup_method="linear", warmup_factor=0.001):
    """A tenth of the learning rate after each milestone but the last, which is the end."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**k for k in range(len(milestones))], milestones=milestones
        ),
        warmup_length=500 / milestones[-1],
        warmup_method=warmup_method,
        warmup_factor=warmup_factor,
    )


lr_multiplier_1x = schedule([58640, 80630, 87960])  # 8, 11 and 12 epochs
lr_multiplier_20e = schedule([117280, 139270, 146600])
lr_multiplier_fcos_1x = schedule([58640, 80630, 87960], "constant", 1 / 3)
