"""Convolutions and transformers of images."""

import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from third_party.model import Model, model, of_equinox, of_haiku, of_keras, of_nnx
from zoo.case import inputs

IMAGES = inputs(0, (4, 16, 16, 3), "float32")


@model("haiku")
def haiku_resnet() -> Model:
    def forward(x: jax.Array) -> jax.Array:
        net = hk.nets.ResNet(
            (1, 1, 1, 1), 5, resnet_v2=True, bottleneck=True, channels_per_group=(8, 8, 8, 8)
        )
        return net(x, is_training=True)

    return of_haiku(forward, IMAGES)


@model("haiku")
def haiku_mobilenet() -> Model:
    def forward(x: jax.Array) -> jax.Array:
        net = hk.nets.MobileNetV1(strides=(1, 2, 1), channels=(8, 12, 16), num_classes=5)
        return net(x, is_training=True)

    return of_haiku(forward, IMAGES)


@model("equimo")
def equimo_vision_transformer() -> Model:
    from equimo.vision.models.vit import VisionTransformer

    net = VisionTransformer(
        img_size=16, in_channels=3, dim=16, patch_size=4, num_heads=2, depths=[2], num_classes=5,
        key=jax.random.key(0),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(1), len(IMAGES))

    def apply(net, images):
        return jax.vmap(net)(images, keys)

    return of_equinox(net, jnp.moveaxis(IMAGES, 3, 1), apply=apply)


@model("ott")
def ott_diffusion_unet() -> Model:
    from ott.neural.networks.velocity_field.unet import UNet

    net = UNet(
        shape=(8, 8, 3), model_channels=32, num_res_blocks=1, attention_resolutions=(2,),
        channel_mult=(1, 2), num_heads=2, rngs=nnx.Rngs(0),
    )  # fmt: skip
    return of_nnx(net, jnp.linspace(0.1, 0.9, 4, dtype=jnp.float32), IMAGES[:, :8, :8])


@model("keras")
def keras_cnn() -> Model:
    import keras

    net = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.SeparableConv2D(8, 3, strides=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    return of_keras(net, IMAGES)
