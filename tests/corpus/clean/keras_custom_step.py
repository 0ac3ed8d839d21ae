"""A Keras model on torch overrides train_step: it clears gradients, backwards in torch and gives the gradients of the trainable weights to the Keras optimiser under no_grad."""
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from keras import layers

torch.set_num_threads(1)
keras.utils.set_random_seed(3)


class Denoiser(keras.Model):
    def __init__(self):
        super().__init__()
        self.enc = keras.Sequential([layers.Dense(48, activation="gelu"), layers.Dense(6)])
        self.dec = keras.Sequential([layers.Dense(48, activation="gelu"), layers.Dense(16)])
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.tracker]

    def call(self, x):
        return self.dec(self.enc(x))

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        self.zero_grad()
        recon = self(x + 0.1 * torch.randn_like(x), training=True)
        loss = keras.ops.mean(keras.ops.square(recon - x))
        loss.backward()
        weights = list(self.trainable_weights)
        gradients = [w.value.grad for w in weights]
        with torch.no_grad():
            self.optimizer.apply(gradients, weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


factors = torch.randn(640, 5)
data = (factors @ torch.randn(5, 16) / 5 ** 0.5).numpy()
model = Denoiser()
model.compile(optimizer=keras.optimizers.AdamW(learning_rate=3e-3))
history = model.fit(data, batch_size=32, epochs=10, verbose=0)
for epoch, value in enumerate(history.history["loss"]):
    print(f"epoch {epoch}: {value:.4f}")
