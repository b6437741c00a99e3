from detectron2.config import LazyCall as L

from hrnet_d2.solver import clipped_sgd, get_optimizer_params, sgd

# 8 GPUs, 2 images each. params.model is set to the model before this is instantiated.
two_stage = L(sgd)(
    params=L(get_optimizer_params)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        weight_decay_norm="${..weight_decay}",
    ),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

# 4 GPUs, 4 images each.
fcos = L(clipped_sgd)(
    params=L(get_optimizer_params)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        weight_decay_norm="${..weight_decay}",
        conv_bias_lr_factor=2.0,
        conv_bias_weight_decay=0.0,
    ),
    max_norm=35.0,
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
)
