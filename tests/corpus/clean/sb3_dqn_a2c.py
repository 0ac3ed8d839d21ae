"""DQN with a hard-updated target network and A2C with RMSprop, both of Stable-Baselines3, on one custom task."""
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

torch.set_num_threads(1)


class Recall(gym.Env):
    """A one-hot sign is shown for ten steps; answer with its successor."""
    n = 4
    observation_space = gym.spaces.Box(0, 1, (n,), np.float32)
    action_space = gym.spaces.Discrete(n)

    def _see(self):
        self.sign = int(self.np_random.integers(self.n))
        return np.eye(self.n, dtype=np.float32)[self.sign]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {}

    def step(self, action):
        reward = float(action == (self.sign + 1) % self.n)
        self.t += 1
        return self._see(), reward, self.t == 10, False, {}


def score(model):
    return evaluate_policy(model, Monitor(Recall()), n_eval_episodes=10, deterministic=True)[0]


net = {"net_arch": [32]}
dqn = DQN("MlpPolicy", Recall(), learning_rate=3e-3, learning_starts=100, batch_size=32, train_freq=4, target_update_interval=200, gamma=0.5, exploration_fraction=0.5, policy_kwargs=net, seed=1, device="cpu")
a2c = A2C("MlpPolicy", Recall(), learning_rate=7e-3, n_steps=16, gamma=0.5, policy_kwargs=net, seed=1, device="cpu")
for name, model, steps in (("dqn", dqn, 2500), ("a2c", a2c, 4000)):
    first = score(model)
    model.learn(steps)
    print(f"{name}: {first:.1f} -> {score(model):.1f} of 10")
