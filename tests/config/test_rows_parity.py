"""Every row is the reference's config of the same name, field by field (make parity)."""

import json
import pathlib
import subprocess

import pytest
from conftest import REPOSITORY

from nonlocal_jax.config import files

pytestmark = pytest.mark.parity

SCRIPT = REPOSITORY / "tests" / "golden" / "reference_configs.py"
# What the fields of a row are compared in.
SECTIONS = (
    *("model.", "optimizer.", "lr_config.", "runner.", "checkpoint_config.", "evaluation."),
    *("data.samples_per_gpu", "data.train.pipeline.", "data.test.pipeline."),
)
NORM = {"norm_cfg.type": "SyncBN", "norm_cfg.requires_grad": True}
NORMALISE = {
    "type": "Normalize",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "to_rgb": True,
}
PUBLISHED_GPUS = 4
STAGE = {f"stage{index + 1}": index for index in range(4)}
WIDTHS = {f"stage{index + 1}": 256 * 2**index for index in range(4)}


def nonlocal_fields(head):
    return {
        "type": "NLHead",
        "reduction": head.reduction,
        "use_scale": head.use_scale,
        "mode": head.mode,
    }


def fcn_fields(head):
    return {"type": "FCNHead", "num_convs": head.num_convs, "concat_input": head.concat_input}


# The fields of a decode head that are its method's own.
OWN_FIELDS = {
    "nonlocal": nonlocal_fields,
    "fcn": fcn_fields,
    "dnl": lambda head: {
        "type": "DNLHead",
        "reduction": head.reduction,
        "use_scale": head.use_scale,
        "mode": "embedded_gaussian",
    },
    "gc": lambda head: {
        "type": "GCHead",
        "ratio": 1 / head.reduction,
        "pooling_type": "att",
        "fusion_types": ["channel_add"],
    },
    "ann": lambda head: {
        "type": "ANNHead",
        "project_channels": head.project_channels,
        "query_scales": [1],
        "key_pool_scales": list(head.grids),
    },
    "cc": lambda head: {"type": "CCHead", "recurrence": head.recurrence},
    "da": lambda head: {"type": "DAHead", "pam_channels": head.position_channels},
    "isa": lambda head: {
        "type": "ISAHead",
        "isa_channels": head.attention_channels,
        "down_factor": list(head.group),
    },
    "ema": lambda head: {
        "type": "EMAHead",
        "ema_channels": head.ema_channels,
        "num_bases": head.bases,
        "num_stages": head.steps,
        "momentum": head.momentum,
    },
    "psa": lambda head: {
        "type": "PSAHead",
        "mask_size": list(head.mask_size),
        "psa_type": {"both": "bi-direction"}[head.branches],
        "compact": head.compact,
        "shrink_factor": head.shrink_factor,
        "normalization_factor": head.normalization_factor,
        "psa_softmax": head.softmax,
    },
}


def prefixed(prefix, fields):
    return {f"{prefix}.{key}": value for key, value in fields.items()}


def head_fields(config, head):
    reads = getattr(head, "stages", None) or (head.stage,)
    several = len(reads) > 1
    channels, index = [WIDTHS[stage] for stage in reads], [STAGE[stage] for stage in reads]
    return {
        "in_channels": channels if several else channels[0],
        "in_index": index if several else index[0],
        "channels": head.channels,
        "dropout_ratio": head.dropout,
        "num_classes": config.model.num_classes,
        "align_corners": config.model.align_corners,
        "loss_decode.type": "CrossEntropyLoss",
        "loss_decode.use_sigmoid": False,
        "loss_decode.loss_weight": head.loss_weight,
        **NORM,
        **OWN_FIELDS[head.name](head),
    }


def model_fields(config):
    model, backbone = config.model, config.model.backbone
    assert (backbone.output_stride, backbone.variant) == (8, "v1c")
    assert (backbone.stem_channels, backbone.base_channels, backbone.frozen_stages) == (64, 64, -1)
    assert config.init_from == f"checkpoints/resnet{backbone.depth}_v1c"
    fields = {
        "type": "EncoderDecoder",
        "pretrained": f"open-mmlab://resnet{backbone.depth}_v1c",
        "backbone.type": "ResNetV1c",
        "backbone.depth": backbone.depth,
        "backbone.num_stages": 4,
        "backbone.out_indices": [0, 1, 2, 3],
        "backbone.dilations": [1, 1, 2, 4],
        "backbone.strides": [1, 2, 1, 1],
        "backbone.norm_eval": backbone.norm_eval,
        "backbone.style": backbone.style,
        "backbone.contract_dilation": backbone.contract_dilation,
        **prefixed("backbone", NORM),
        **prefixed("decode_head", head_fields(config, model.decode_head)),
        **prefixed("auxiliary_head", head_fields(config, model.auxiliary_head)),
        "test_cfg.mode": config.eval.mode,
    }
    if config.eval.mode == "slide":
        fields["test_cfg.crop_size"] = list(config.eval.window)
        fields["test_cfg.stride"] = list(config.eval.stride)
    return prefixed("model", fields)


def training_fields(config):
    data = config.data
    assert (data.vertical_flip_probability, data.rotate_probability) == (0, 0)
    assert data.cutout_probability == 0 and data.photometric_distortion
    labels = {"type": "LoadAnnotations"}
    if data.name == "ade20k":
        labels["reduce_zero_label"] = True
    steps = [
        {"type": "LoadImageFromFile"},
        labels,
        {"type": "Resize", "img_scale": list(data.scale), "ratio_range": list(data.ratio_range)},
        {
            "type": "RandomCrop",
            "crop_size": list(data.crop_size),
            "cat_max_ratio": data.max_class_fraction,
        },
        {"type": "RandomFlip", "prob": data.flip_probability},
        {"type": "PhotoMetricDistortion"},
        NORMALISE,
        {"type": "Pad", "size": list(data.crop_size), "pad_val": 0, "seg_pad_val": 255},
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img", "gt_semantic_seg"]},
    ]
    return {k: v for i, step in enumerate(steps) for k, v in prefixed(f"{i}", step).items()}


def evaluation_fields(config):
    steps = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        NORMALISE,
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    return {
        "0.type": "LoadImageFromFile",
        "1.type": "MultiScaleFlipAug",
        "1.img_scale": list(config.eval.scale),
        "1.flip": False,
        **{
            k: v
            for i, step in enumerate(steps)
            for k, v in prefixed(f"1.transforms.{i}", step).items()
        },
    }


def optimizer_fields(config):
    optimizer, schedule = config.optimizer, config.optimizer.schedule
    assert (optimizer.name, schedule.name, optimizer.warmup_steps) == ("sgd", "polynomial", 0)
    return {
        "optimizer.type": "SGD",
        "optimizer.lr": optimizer.learning_rate,
        "optimizer.momentum": optimizer.momentum,
        "optimizer.weight_decay": optimizer.weight_decay,
        **{
            f"optimizer.paramwise_cfg.custom_keys.{layer}.wd_mult": 0.0
            for layer in optimizer.undecayed
        },
        "lr_config.policy": "poly",
        "lr_config.power": schedule.power,
        "lr_config.min_lr": schedule.min_learning_rate,
        "lr_config.by_epoch": False,
        "runner.type": "IterBasedRunner",
        "runner.max_iters": config.total_steps,
        "checkpoint_config.by_epoch": False,
        "checkpoint_config.interval": config.checkpoint_every,
        "evaluation.interval": config.eval_every,
        "evaluation.metric": "mIoU",
        "evaluation.pre_eval": True,
        "data.samples_per_gpu": config.batch_size // PUBLISHED_GPUS,
    }


def fields(config):
    """The reference's config of a row, as far as it is compared."""
    return {
        **model_fields(config),
        **prefixed("data.train.pipeline", training_fields(config)),
        **prefixed("data.test.pipeline", evaluation_fields(config)),
        **optimizer_fields(config),
    }


def test_every_row_is_the_references(reference_python):
    rows = {name: files.load(name) for name in files.names_with_rows()}
    rows = {n: c for n, c in rows.items() if c.task == "segmentation" and c.published.url}
    assert len(rows) == 144
    theirs = {
        name: "/".join(pathlib.PurePath(config.published.url).parts[-3:-1])
        for name, config in rows.items()
    }
    command = [reference_python, "-W", "ignore", str(SCRIPT), *theirs.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = json.loads(done.stdout)
    assert len(reference) == 144
    for name, config in rows.items():
        published = {k: v for k, v in reference[theirs[name]].items() if k.startswith(SECTIONS)}
        assert fields(config) == published, name
