"""The networks that `torch_networks` compares, and their weights, which both sides draw from the names."""

import zlib

import numpy as np

# The sizes of a network in its own words, for PyTorch and for jaxinv, and those of its images.
CASES = {
    "drunet-grey": {"kind": "DRUNet", "sizes": {"nc": (4, 8, 8, 16), "nb": 1}, "shape": (32, 32, 1)},
    "drunet-colour": {"kind": "DRUNet", "sizes": {"nc": (8, 8, 16, 16), "nb": 2}, "shape": (40, 64, 3)},
    "drunet-odd": {"kind": "DRUNet", "sizes": {"nc": (4, 8, 8, 8), "nb": 3}, "shape": (37, 21, 3)},
    "drunet-small": {"kind": "DRUNet", "sizes": {"nc": (4, 4, 8, 8), "nb": 1}, "shape": (12, 9, 1)},
    "adm-ffhq": {
        "kind": "ADMUNet",
        "sizes": {
            "model_channels": 32,
            "channel_mult": (1, 2),
            "attention_resolutions": "128",
            "num_head_channels": 32,
        },
        "options": {"head_width": 32},
        "shape": (16, 16, 3),
    },
    "adm-new-order": {
        "kind": "ADMUNet",
        "sizes": {
            "model_channels": 32,
            "channel_mult": (1, 1, 2),
            "num_res_blocks": 2,
            "attention_resolutions": "128,64",
            "num_head_channels": 16,
            "resblock_updown": False,
            "use_new_attention_order": True,
        },
        "options": {"head_width": 16, "by_head": False},
        "shape": (24, 16, 3),
    },
    "adm-grey-heads": {
        "kind": "ADMUNet",
        "sizes": {
            "model_channels": 32,
            "channel_mult": (1, 2),
            "attention_resolutions": "256",
            "num_heads": 2,
            "num_head_channels": -1,
            "use_scale_shift_norm": False,
        },
        "options": {"head_width": None, "num_heads": 2},
        "shape": (16, 16, 1),
    },
    "adm-classes": {
        "kind": "ADMUNet",
        "sizes": {"model_channels": 64, "channel_mult": (1, 1, 2), "attention_resolutions": "64", "num_classes": 5},
        "labels": (1, 4),
        "shape": (8, 16, 3),
    },
    "diffusers-one-head": {
        "kind": "DiffusersUNet",
        "sizes": {
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": None,
        },
        "shape": (16, 16, 3),
    },
    "diffusers-ddpm": {
        "kind": "DiffusersUNet",
        "sizes": {
            "block_out_channels": (8, 8, 16),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-6,
        },
        "shape": (16, 24, 3),
    },
    "diffusers-residual-resampling": {
        "kind": "DiffusersUNet",
        "sizes": {
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 8,
            "resnet_time_scale_shift": "scale_shift",
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "attn_norm_num_groups": 2,
        },
        "shape": (16, 24, 3),
    },
    "diffusers-classes": {
        "kind": "DiffusersUNet",
        "sizes": {
            "block_out_channels": (8, 8),
            "layers_per_block": 1,
            "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
            "norm_num_groups": 2,
            "attention_head_dim": 4,
            "num_class_embeds": 7,
            "center_input_sample": True,
            "mid_block_scale_factor": 1.5,
        },
        "labels": (1, 4),
        "shape": (16, 24, 1),
    },
}
# What is timed: smaller than the published networks, so that a run takes a minute.
TIMED = {
    "drunet": {"kind": "DRUNet", "sizes": {"nc": (32, 64, 128, 256), "nb": 2}, "channels": 3},
    "adm": {
        "kind": "ADMUNet",
        "sizes": {"model_channels": 64, "channel_mult": (1, 2, 2), "attention_resolutions": "64"},
        "channels": 3,
    },
    "diffusers": {
        "kind": "DiffusersUNet",
        "sizes": {
            "block_out_channels": (64, 128, 128),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            "norm_num_groups": 32,
            "attention_head_dim": 32,
        },
        "channels": 3,
    },
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of a name: normal, and so large that the activations stay of order 1."""
    size = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.3
    return (size * np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)).astype(np.float32)
