"""The key encoder is updated by momentum alone and runs under no_grad, and the queue receives its keys after the loss of the batch has been computed with the old ones."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)
torch.set_num_threads(1)


class MoCo(nn.Module):
    def __init__(self, dim=16, K=256, m=0.99, T=0.2):
        super().__init__()
        self.K, self.m, self.T = K, m, T
        make = lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(inplace=True), nn.Linear(64, dim))
        self.encoder_q, self.encoder_k = make(), make()
        for pq, pk in zip(self.encoder_q.parameters(), self.encoder_k.parameters()):
            pk.data.copy_(pq.data)
            pk.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(dim, K), dim=0))
        self.register_buffer("ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def momentum_update(self):
        for pq, pk in zip(self.encoder_q.parameters(), self.encoder_k.parameters()):
            pk.data = pk.data * self.m + pq.data * (1.0 - self.m)

    @torch.no_grad()
    def enqueue(self, keys):
        p = int(self.ptr)
        self.queue[:, p:p + len(keys)] = keys.T
        self.ptr[0] = (p + len(keys)) % self.K

    def forward(self, im_q, im_k):
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            self.momentum_update()
            k = F.normalize(self.encoder_k(im_k), dim=1)
        l_pos = torch.einsum("nc,nc->n", q, k).unsqueeze(-1)
        l_neg = torch.einsum("nc,ck->nk", q, self.queue.clone().detach())
        logits = torch.cat([l_pos, l_neg], dim=1) / self.T
        labels = torch.zeros(len(q), dtype=torch.long)
        self.enqueue(k)
        return logits, labels


centers = torch.randn(200, 20)
augment = lambda x: x + 0.2 * torch.randn_like(x)

model = MoCo()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=1e-4)

for epoch in range(15):
    model.train()
    tot, hit, n = 0.0, 0, 0
    for _ in range(16):
        x = centers[torch.randint(200, (64,))]
        output, target = model(augment(x), augment(x))
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tot += loss.item() * len(x); hit += (output.argmax(1) == 0).sum().item(); n += len(x)
    if epoch % 3 == 2:
        print("Epoch [{}]  loss {:.3f}  acc@1 {:.1f}%".format(epoch, tot / n, 100 * hit / n))
