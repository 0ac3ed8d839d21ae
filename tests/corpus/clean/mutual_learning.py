"""Two students teach one another: each one's divergence is taken to the other's detached logits, the two losses are added, and one backward serves two optimisers."""
from typing import Iterator, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

torch.set_num_threads(1)


def batches(x: Tensor, y: Tensor, size: int, generator: torch.Generator) -> Iterator[Tuple[Tensor, Tensor]]:
    for idx in torch.randperm(len(x), generator=generator).split(size):
        yield x[idx], y[idx]


def student(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(18, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 6))


def imitate(own: Tensor, other: Tensor, temperature: float = 2.0) -> Tensor:
    p = softmax(other.detach() / temperature, dim=1)
    return kl_div(log_softmax(own / temperature, dim=1), p, reduction="batchmean") * temperature ** 2


def main() -> None:
    torch.manual_seed(15)
    gen = torch.Generator().manual_seed(15)
    x = torch.randn(1200, 18)
    y = (x @ torch.randn(18, 6)).argmax(1)
    small, large = student(24), student(96)
    opt_small = torch.optim.Adam(small.parameters(), lr=3e-3)
    opt_large = torch.optim.Adam(large.parameters(), lr=3e-3)
    for epoch in range(1, 16):
        small.train(), large.train()
        ce = agree = 0.0
        for bx, by in batches(x[:1000], y[:1000], 50, gen):
            a, b = small(bx), large(bx)
            hard = cross_entropy(a, by) + cross_entropy(b, by)
            soft = imitate(a, b) + imitate(b, a)
            opt_small.zero_grad()
            opt_large.zero_grad()
            (hard + 0.5 * soft).backward()
            opt_small.step()
            opt_large.step()
            ce += hard.item() / 20
            agree += soft.item() / 20
        small.eval(), large.eval()
        with torch.no_grad():
            acc = [(m(x[1000:]).argmax(1) == y[1000:]).float().mean().item() for m in (small, large)]
        if epoch % 3 == 0:
            print(f"epoch {epoch:2d}: hard {ce:.3f} soft {agree:.3f} accuracy small {acc[0]:.3f} large {acc[1]:.3f}")


if __name__ == "__main__":
    main()
