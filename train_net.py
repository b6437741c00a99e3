#!/usr/bin/env python
r"""Train and evaluate the models of this package.

    python train_net.py --config-file configs/faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml \
        --num-gpus 8
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS checkpoint.pth
    python train_net.py --config-file ... --train-data train.json images/ --val-data val.json \
        images/
    torchrun --nproc-per-node 8 train_net.py --config-file ...

Takes Detectron2's arguments; `python train_net.py --help` lists them.
"""

from detectron2.evaluation import verify_results
from detectron2.utils import comm

from hrnet_d2.engine import Trainer, argument_parser, device_of, evaluate, launch, setup


def main(args):
    cfg = setup(args)
    if args.eval_only:
        results = evaluate(cfg, resume=args.resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    launch(main, arguments, device=device_of(arguments))
