"""Each chunk's loss is divided by the tokens of the whole sequence and backwarded at once with the state detached, so the sum of the chunks is the sequence's mean loss when the one step is taken."""
import torch
from torch import nn

torch.manual_seed(42)
torch.set_num_threads(1)

VOCAB, T, CHUNK, B = 12, 60, 15, 16


def make_sequences(n):
    """Counting modulo VOCAB with a step of 1, 2 or 3 and 5 % of noise."""
    start = torch.randint(VOCAB, (n, 1))
    stride = torch.randint(1, 4, (n, 1))
    seq = (start + stride * torch.arange(T + 1)) % VOCAB
    noise = torch.rand(n, T + 1) < 0.05
    return torch.where(noise, torch.randint_like(seq, VOCAB), seq)


class CharGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, 24)
        self.rnn = nn.GRU(24, 48, batch_first=True)
        self.out = nn.Linear(48, VOCAB)

    def forward(self, tokens, state=None):
        h, state = self.rnn(self.emb(tokens), state)
        return self.out(h), state


model = CharGRU()
optim = torch.optim.Adam(model.parameters(), lr=4e-3)
loss_sum = nn.CrossEntropyLoss(reduction="sum")

for iteration in range(120):
    seq = make_sequences(B)
    inputs, targets = seq[:, :-1], seq[:, 1:]
    optim.zero_grad()
    state, sequence_loss = None, 0.0
    for lo in range(0, T, CHUNK):
        logits, state = model(inputs[:, lo:lo + CHUNK], state)
        loss = loss_sum(logits.flatten(0, 1), targets[:, lo:lo + CHUNK].flatten()) / (B * T)
        loss.backward()
        state = state.detach()
        sequence_loss += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optim.step()
    if (iteration + 1) % 20 == 0:
        print(f"{iteration + 1}: nats per token {sequence_loss:.4f}")
