"""What the rows share: NonLocalNet R-50-D8 as MMSegmentation 0.x trained and published it.

A row starts from `cityscapes()`, `ade20k()` or `voc12aug()` and states only what differs.
Every value can be overridden on the command line: `--config.optimizer.learning_rate=0.02`.
"""

from ml_collections import ConfigDict

PUBLISHED_FILES = "https://download.openmmlab.com/mmsegmentation/v0.5/nonlocal_net"


def base() -> ConfigDict:
    """A complete config; the data set's own values follow in the functions below."""
    config = ConfigDict()
    config.seed = 0
    # Where the data set lives; empty for data/NAME in the current folder.
    config.data_dir = ""
    # An imported backbone or a whole checkpoint to start from; empty for random initialisation.
    config.init_from = "checkpoints/resnet50_v1c"
    # Leave the classifiers at random where `init_from` has another number of classes.
    config.init_skip_classifier = False
    # Of matrix products: "default", "high", or "highest", with which dtype "auto" is float32.
    config.precision = "default"

    config.model = ConfigDict()
    config.model.num_classes = 19
    config.model.align_corners = False
    # Of the computation; norms, softmax and loss stay float32. "auto": bfloat16 on accelerators.
    config.model.dtype = "auto"
    config.model.param_dtype = "float32"
    # What the backward pass computes again to save memory: "none", "norms", or "blocks" (most, for
    # larger crops and batches). "auto": norms on TPUs. See models/remat.py.
    config.model.remat = "auto"

    config.model.backbone = ConfigDict()
    config.model.backbone.variant = "v1c"
    config.model.backbone.depth = 50
    config.model.backbone.output_stride = 8
    config.model.backbone.contract_dilation = True
    config.model.backbone.stem_channels = 64
    config.model.backbone.base_channels = 64
    config.model.backbone.frozen_stages = -1  # 0 freezes the stem, k the stem and stages 1 to k
    config.model.backbone.norm_eval = False
    # Equal blocks as a loop: compiles faster, runs slower. Parameters and results are the same.
    config.model.backbone.scan_blocks = False

    config.model.decode_head = ConfigDict()
    config.model.decode_head.name = "nonlocal"  # or "fcn": the same head without the block
    config.model.decode_head.channels = 512
    config.model.decode_head.num_convs = 2
    config.model.decode_head.concat_input = True
    config.model.decode_head.dropout = 0.1
    config.model.decode_head.mode = "embedded_gaussian"
    config.model.decode_head.reduction = 2
    config.model.decode_head.use_scale = True
    config.model.decode_head.sub_sample = False
    # Of the softmax: "chunked" (anywhere), "cudnn" (GPU), "pallas" (TPU), or what suits.
    config.model.decode_head.implementation = "auto"

    config.model.auxiliary_head = ConfigDict()
    config.model.auxiliary_head.channels = 256
    config.model.auxiliary_head.num_convs = 1
    config.model.auxiliary_head.dropout = 0.1
    config.model.auxiliary_head.loss_weight = 0.4  # 0 builds no auxiliary head

    config.data = ConfigDict()
    config.data.name = "cityscapes"
    config.data.source = "auto"  # "array_record" (prepared), "folder" (raw), or what is there
    config.data.classes_file = ""  # for data.name "folder": names and palette, see the README
    config.data.reduce_zero_label = False  # for data.name "folder": 0 -> ignored, k -> k - 1
    config.data.label_map = ConfigDict()  # for data.name "folder": {"mask value": class}
    config.data.scale = (2048, 1024)  # long and short side that ratio 1 fits an image into
    config.data.ratio_range = (0.5, 2.0)
    config.data.crop_size = (512, 1024)  # height, width
    config.data.max_class_fraction = 0.75  # of a crop's labelled pixels, else it is drawn again
    config.data.flip_probability = 0.5
    config.data.vertical_flip_probability = 0.0
    config.data.rotate_probability = 0.0
    config.data.rotate_degrees = 10.0
    config.data.cutout_probability = 0.0
    config.data.cutout_holes = 1
    config.data.cutout_size = (64, 64)
    config.data.photometric_distortion = True
    config.data.num_threads = -1  # -1: one per core
    config.data.num_workers = -1  # processes beside this one; 0: threads alone; -1: what suits
    config.data.on_bad_example = "raise"  # or "skip": go on with another, and count

    config.batch_size = 8  # over all devices and hosts
    config.accumulate_steps = 1  # parts of a batch, one after another; norms see one at a time
    config.total_steps = 40_000
    # So many steps of a run may have an infinite or NaN loss or gradient: they change nothing.
    config.skip_nonfinite_steps = 0
    config.log_every = 50
    config.eval_every = 4_000
    config.checkpoint_every = 4_000
    config.keep_checkpoints = 2  # the latest ones; the best by mIoU is kept besides

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.01
    config.optimizer.min_learning_rate = 1e-4
    config.optimizer.power = 0.9
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    # The batch that the learning rate is meant for: with another config.batch_size the whole
    # schedule is multiplied by batch_size / scale_from_batch_size. 0: it is taken as it is.
    config.optimizer.scale_from_batch_size = 0
    config.optimizer.warmup_steps = 0  # over which the learning rate rises from near 0

    config.eval = ConfigDict()
    config.eval.mode = "whole"  # or "slide"
    config.eval.scale = (2048, 1024)
    config.eval.window = (769, 769)  # for "slide": height, width
    config.eval.stride = (513, 513)
    config.eval.batch_size = 8
    config.eval.tta_ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    config.eval.tta_flip = True

    # Devices by what they split. data: the batch; fsdp: the batch, and parameters and momentum,
    # which are gathered for each step; spatial: the height of the images of a group. -1 takes the
    # devices that the other axes leave.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "spatial": 1})
    config.published = ConfigDict()
    return config


def cityscapes() -> ConfigDict:
    """Cityscapes, 512x1024 crops: 4 GPUs x 2 images."""
    return base()


def cityscapes_769() -> ConfigDict:
    """Cityscapes, 769x769 crops, aligned corners, sliding-window tests: 4 GPUs x 2 images."""
    config = base()
    config.model.align_corners = True
    config.data.scale = (2049, 1025)
    config.data.crop_size = (769, 769)
    config.eval.mode = "slide"
    config.eval.scale = (2049, 1025)
    return config


def ade20k() -> ConfigDict:
    """ADE20K (SceneParse150), 512x512 crops: 4 GPUs x 4 images."""
    config = base()
    config.model.num_classes = 150
    config.data.name = "ade20k"
    config.data.scale = (2048, 512)
    config.data.crop_size = (512, 512)
    config.eval.scale = (2048, 512)
    config.batch_size = 16
    config.total_steps = 80_000
    config.eval_every = config.checkpoint_every = 8_000
    return config


def voc12aug() -> ConfigDict:
    """Pascal VOC 2012 with the SBD masks, 512x512 crops: 4 GPUs x 4 images."""
    config = base()
    config.model.num_classes = 21
    config.data.name = "voc12aug"
    config.data.scale = (2048, 512)
    config.data.crop_size = (512, 512)
    config.eval.scale = (2048, 512)
    config.batch_size = 16
    config.total_steps = 20_000
    config.eval_every = config.checkpoint_every = 2_000
    return config


def resnet101(config: ConfigDict) -> None:
    """Deepens the backbone, and starts from its ImageNet weights."""
    config.model.backbone.depth = 101
    config.init_from = "checkpoints/resnet101_v1c"


def published(stem: str, date_and_hash: str, **results: float) -> ConfigDict:
    """What MMSegmentation published for a row: the checkpoint's address, and its results.

    The eight hex digits at the end of the name begin the file's SHA-256.

    Args:
      stem: name of the reference's config.
      date_and_hash: what follows it in the file's name.
      **results: mIoU (`miou`), with ms+flip (`miou_tta`), training memory per GPU (`memory_gb`)
        and inference on a V100 (`fps`), where the reference's table has them.
    """
    url = f"{PUBLISHED_FILES}/{stem}/{stem}_{date_and_hash}.pth"
    return ConfigDict({"url": url, "sha256": date_and_hash.rpartition("-")[2], **results})
