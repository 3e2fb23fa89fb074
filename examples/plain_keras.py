"""Your own Keras model and data; only the freezing and the class weights are tlkit's."""

import keras
import numpy as np

import tlkit

x = np.random.default_rng(0).random((32, 64, 64, 3), np.float32)
y = np.repeat([0, 1, 2], [16, 12, 4])
base = keras.applications.MobileNetV2(input_shape=(64, 64, 3), include_top=False, weights=None)
vector = keras.layers.GlobalAveragePooling2D()(base.output)
model = keras.Model(base.input, keras.layers.Dense(3, "softmax", name="scores")(vector))

frozen = tlkit.freeze(model, train={"block_16_*": 0.1, "scores": 1})  # learning-rate multipliers
weights = tlkit.class_weights(y)  # balanced: {0: 0.67, 1: 0.89, 2: 2.67}
model.compile(frozen.optimizer(keras.optimizers.Adam(1e-3)), "sparse_categorical_crossentropy")
model.fit(x, y, sample_weight=tlkit.sample_weights(y, weights), verbose=2)
print(frozen)
