"""PPO of Stable-Baselines3 on a custom environment, evaluated before and after learning."""
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

torch.set_num_threads(1)


class Corridor(gym.Env):
    """Walk right to the end of a line of nine cells."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def _obs(self):
        return np.array([self.x / 4 - 1, self.t / 10 - 1], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = int(self.np_random.integers(0, 4)), 0
        return self._obs(), {}

    def step(self, a):
        self.x = int(np.clip(self.x + (a - 1), 0, 8))
        self.t += 1
        done = self.x == 8
        return self._obs(), 1.0 if done else -0.05, done, self.t >= 20, {}


env = make_vec_env(Corridor, n_envs=4, seed=0)
model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=4, learning_rate=1e-3, gamma=0.95, policy_kwargs={"net_arch": [32, 32]}, seed=0, device="cpu")
print("before: %.2f +- %.2f" % evaluate_policy(model, env, n_eval_episodes=20, deterministic=False, warn=False))
model.learn(3000)
print("after:  %.2f +- %.2f" % evaluate_policy(model, env, n_eval_episodes=20, deterministic=False, warn=False))
