"""A physics-informed network takes second derivatives by double backward, first under Adam and then under LBFGS with a closure that zeroes, computes and backwards on fixed points."""
import math
import torch

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

net = torch.nn.Sequential(torch.nn.Linear(2, 24), torch.nn.Tanh(), torch.nn.Linear(24, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
kappa = 0.1                                    # heat equation u_t = kappa u_xx, u(x, 0) = sin(pi x), u = 0 at the walls
x_in = torch.rand(300, 2)                      # columns x, t
x_ic = torch.stack([torch.rand(80), torch.zeros(80)], 1)
x_bc = torch.stack([torch.randint(2, (80,)).double(), torch.rand(80)], 1)


def d(out, inp):
    return torch.autograd.grad(out, inp, torch.ones_like(out), create_graph=True)[0]


def physics_loss():
    p = x_in.clone().requires_grad_(True)
    du = d(net(p), p)
    u_xx = d(du[:, :1], p)[:, :1]
    residual = (du[:, 1:] - kappa * u_xx).pow(2).mean()
    initial = (net(x_ic) - torch.sin(math.pi * x_ic[:, :1])).pow(2).mean()
    wall = net(x_bc).pow(2).mean()
    return residual + 10 * initial + 10 * wall


adam = torch.optim.Adam(net.parameters(), lr=5e-3)
for it in range(1, 301):
    adam.zero_grad()
    loss = physics_loss()
    loss.backward()
    adam.step()
    if it % 75 == 0:
        print(f"adam {it}: {loss.item():.3e}")

lbfgs = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=20, history_size=30, line_search_fn="strong_wolfe")


def closure():
    lbfgs.zero_grad()
    value = physics_loss()
    value.backward()
    return value


for outer in range(5):
    value = lbfgs.step(closure)
    print(f"lbfgs {outer}: {value.item():.3e}")
with torch.no_grad():
    q = torch.rand(500, 2)
    exact = torch.exp(-kappa * math.pi ** 2 * q[:, 1:]) * torch.sin(math.pi * q[:, :1])
    print(f"relative error {((net(q) - exact).norm() / exact.norm()).item():.3f}")
