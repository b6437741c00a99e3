# The keys that Detectron2's tools/lazyconfig_train_net.py reads.
_HOST = "https://download.openmmlab.com/pretrain/third_party"

train = dict(
    output_dir="./output",
    # ImageNet weights follow the backbone's width; a width without any starts from scratch.
    imagenet=dict(
        w18=f"{_HOST}/hrnetv2_w18-00eb2006.pth",
        w32=f"{_HOST}/hrnetv2_w32-dc9eeb4f.pth",
        w40=f"{_HOST}/hrnetv2_w40-ed0b031c.pth",
        w48=f"{_HOST}/hrnetv2_w48-d2186c55.pth",
    ),
    init_checkpoint="${oc.select:train.imagenet.w${model.backbone.bottom_up.width},''}",
    max_iter=87960,
    amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=7330, max_to_keep=100),  # an epoch of COCO train 2017
    eval_period=7330,
    log_period=20,
    device="cuda",
)
