"""Message passing by index_add over a batch of graphs that are joined into one, with the loss averaged over graphs and the last smaller batch weighted by its size in the printed mean."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(4)


class GraphConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.msg, self.own = nn.Linear(i, o), nn.Linear(i, o)

    def forward(self, x, src, dst):
        agg = torch.zeros(x.size(0), x.size(1)).index_add(0, dst, x[src])
        return F.relu(self.own(x) + self.msg(agg))


class GraphNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = GraphConv(1, 32), GraphConv(32, 32)
        self.readout = nn.Linear(32, 1)

    def forward(self, x, src, dst, graph, n):
        h = self.c2(self.c1(x, src, dst), src, dst)
        pooled = torch.zeros(n, h.size(1)).scatter_add(0, graph[:, None].expand_as(h), h)
        return self.readout(pooled).squeeze(1)


def random_graph():
    n = int(torch.randint(5, 10, ()))
    a = (torch.rand(n, n) < 0.35).triu(1)
    a = a | a.T
    triangles = (a.float() @ a.float() @ a.float()).trace() / 6
    return a.nonzero().T, n, triangles


def collate(graphs):
    src, dst, owner, off = [], [], [], 0
    for i, (e, n, _) in enumerate(graphs):
        src.append(e[0] + off); dst.append(e[1] + off); owner.append(torch.full((n,), i)); off += n
    return torch.ones(off, 1), torch.cat(src), torch.cat(dst), torch.cat(owner), torch.stack([g[2] for g in graphs])


graphs = [random_graph() for _ in range(410)]
loader = torch.utils.data.DataLoader(graphs, batch_size=32, shuffle=True, collate_fn=collate)
net = GraphNet()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(16):
    se = 0.0
    for x, src, dst, owner, t in loader:
        loss = F.mse_loss(net(x, src, dst, owner, len(t)), t)
        opt.zero_grad()
        loss.backward()
        opt.step()
        se += loss.item() * len(t)
    if epoch % 4 == 3:
        print(f"epoch {epoch + 1:2d}: mse of the triangle count {se / len(graphs):.3f}")
