"""Keras on its torch backend: compile, fit with a validation split, a plateau schedule and early stopping that restores the best weights."""
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
import torch

torch.set_num_threads(1)
keras.utils.set_random_seed(21)
rng = np.random.default_rng(21)
x = rng.normal(size=(1200, 10)).astype("float32")
y = (np.abs(x[:, 0]) + x[:, 1] > 1).astype("float32")[:, None]

inp = keras.Input((10,))
h = keras.layers.Dense(48, activation="relu")(inp)
h = keras.layers.Dropout(0.1)(h)
h = keras.layers.Dense(48, activation="relu")(h)
model = keras.Model(inp, keras.layers.Dense(1, activation="sigmoid")(h))
model.compile(optimizer=keras.optimizers.Adam(5e-3, clipnorm=1.0), loss="binary_crossentropy", metrics=["accuracy"])
history = model.fit(
    x, y, batch_size=50, epochs=10, validation_split=0.2, verbose=2,
    callbacks=[keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.5), keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True)],
)
print("best val loss", min(history.history["val_loss"]))
