"""The values that options offer; what they stand for is in the modules that use them."""

__all__ = [
    "CLOCKS",
    "EXPORT_DTYPES",
    "EXPORT_FORMATS",
    "RUNTIMES",
    "SWITCHES",
    "TASKS",
    "TRACKERS",
    "VARIANTS",
]

TRACKERS = ("mlflow", "wandb")

EXPORT_FORMATS = ("onnx", "openvino", "torchscript", "pt2")
EXPORT_DTYPES = ("float32", "float16", "bfloat16", "int8")

# Of `hrnet-d2 benchmark`:
TASKS = (
    "inference",
    "runtimes",
    "startup",
    "growth",
    "train",
    "curves",
    "loop",
    "data",
    "loader",
    "predict",
    "ray",
    "tiles",
    "eval",
    "serve",
    "fcos-postprocessing",
    "htc-heads",
)
CLOCKS = ("wall", "cpu")
SWITCHES = ("plain", "default", "sum", "channels-last", "checkpoint", "fused-sgd", "bf16", "fp16")
RUNTIMES = (
    "plain",
    "optimized",
    "bf16",
    "fp16",
    "openvino-backend",
    "openvino-backend-bf16",
    "openvino",
    "openvino-bf16",
    "openvino-int8",
    "onnxruntime",
)
VARIANTS = (
    "fold",
    "direct",
    "channels-last",
    "bf16",
    "fp16",
    "openvino",
    "openvino-bf16",
    "compile",
    "cuda-graphs",
    "bf16+cuda-graphs",
    "fp16+cuda-graphs",
    "compile+cuda-graphs",
    "bf16+compile",
    "bf16+compile+cuda-graphs",
)
