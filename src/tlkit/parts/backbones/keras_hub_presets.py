"""The presets of KerasHub whose networks tlkit supports, and their addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# The presets of KerasHub 0.32.0 whose networks tlkit supports, below their addresses on Kaggle. The
# other presets of EfficientNet have composite layers, or the address of another preset. Those with
# more than a billion parameters are left out.
ADDRESSES: Mapping[str, Sequence[str]] = {
    "resnetv1/keras/{}/3": (
        "resnet_18_imagenet",
        "resnet_50_imagenet",
        "resnet_101_imagenet",
        "resnet_152_imagenet",
    ),
    "resnetv2/keras/{}/3": ("resnet_v2_50_imagenet", "resnet_v2_101_imagenet"),
    "resnet_vd/keras/{}/2": (
        "resnet_vd_18_imagenet",
        "resnet_vd_34_imagenet",
        "resnet_vd_50_imagenet",
        "resnet_vd_50_ssld_imagenet",
        "resnet_vd_50_ssld_v2_imagenet",
        "resnet_vd_50_ssld_v2_fix_imagenet",
        "resnet_vd_101_imagenet",
        "resnet_vd_101_ssld_imagenet",
        "resnet_vd_152_imagenet",
        "resnet_vd_200_imagenet",
    ),
    "vgg/keras/{}/3": ("vgg_11_imagenet", "vgg_13_imagenet", "vgg_16_imagenet", "vgg_19_imagenet"),
    "densenet/keras/{}/3": (
        "densenet_121_imagenet",
        "densenet_169_imagenet",
        "densenet_201_imagenet",
    ),
    "efficientnet/keras/{}/5": ("efficientnet_b1_ft_imagenet",),
    "efficientnet/keras/{}/2": (
        "efficientnet_b0_ra_imagenet",
        "efficientnet_b0_ra4_e3600_r224_imagenet",
        "efficientnet_b1_ra4_e3600_r240_imagenet",
        "efficientnet_b2_ra_imagenet",
        "efficientnet_b3_ra2_imagenet",
        "efficientnet_b4_ra2_imagenet",
        "efficientnet_b5_sw_imagenet",
        "efficientnet_b5_sw_ft_imagenet",
        "efficientnet_lite0_ra_imagenet",
    ),
    "xception/keras/{}/2": ("xception_41_imagenet",),
    "cspdarknet/keras/{}/2": ("csp_darknet_53_ra_imagenet",),
    "cspdarknet/keras/{}/1": (
        "csp_resnext_50_ra_imagenet",
        "csp_resnet_50_ra_imagenet",
        "darknet_53_imagenet",
    ),
    "vit/keras/{}/4": (
        "vit_base_patch16_224_imagenet",
        "vit_base_patch16_384_imagenet",
        "vit_large_patch16_224_imagenet",
        "vit_large_patch16_384_imagenet",
    ),
    "vit/keras/{}/3": (
        "vit_base_patch32_384_imagenet",
        "vit_large_patch32_384_imagenet",
        "vit_base_patch16_224_imagenet21k",
        "vit_base_patch32_224_imagenet21k",
        "vit_huge_patch14_224_imagenet21k",
        "vit_large_patch16_224_imagenet21k",
        "vit_large_patch32_224_imagenet21k",
    ),
    "dinov2/keras/{}/1": (
        "dinov2_small",
        "dinov2_base",
        "dinov2_large",
        "dinov2_with_registers_small",
        "dinov2_with_registers_base",
        "dinov2_with_registers_large",
    ),
    "dinov3/keras/{}/1": (
        "dinov3_vit_small_lvd1689m",
        "dinov3_vit_small_plus_lvd1689m",
        "dinov3_vit_base_lvd1689m",
        "dinov3_vit_large_lvd1689m",
        "dinov3_vit_huge_plus_lvd1689m",
        "dinov3_vit_large_sat493m",
    ),
    "swin-transformer/keras/{}/1": (
        "swin_tiny_patch4_window7_224",
        "swin_small_patch4_window7_224",
        "swin_base_patch4_window7_224",
        "swin_base_patch4_window12_384",
        "swin_large_patch4_window7_224",
        "swin_large_patch4_window12_384",
    ),
    "siglip/keras/{}/1": (
        "siglip_base_patch16_224",
        "siglip_base_patch16_256",
        "siglip_base_patch16_384",
        "siglip_base_patch16_512",
        "siglip_large_patch16_256",
        "siglip_large_patch16_384",
        "siglip_so400m_patch14_224",
        "siglip_so400m_patch14_384",
        "siglip_so400m_patch16_256_i18n",
        "siglip_base_patch16_256_multilingual",
        "siglip2_base_patch16_224",
        "siglip2_base_patch16_256",
        "siglip2_base_patch32_256",
        "siglip2_base_patch16_384",
        "siglip2_large_patch16_256",
        "siglip2_large_patch16_384",
        "siglip2_large_patch16_512",
        "siglip2_so400m_patch14_224",
        "siglip2_so400m_patch14_384",
        "siglip2_so400m_patch16_256",
        "siglip2_so400m_patch16_384",
        "siglip2_so400m_patch16_512",
    ),
    "medsiglip/keras/{}/1": ("medsiglip_900m_448",),
}
PRESETS: Mapping[str, str] = {
    name: f"keras/{address.format(name)}" for address, names in ADDRESSES.items() for name in names
}
