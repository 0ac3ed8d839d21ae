"""Sequences of unequal length are packed so that no state comes from padding, and the tail batch enters the epoch's mean by its number of sequences."""
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

torch.set_num_threads(1)


class Tagger(nn.Module):
    def __init__(self, n_tokens: int, hidden: int = 24):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, hidden, num_layers=1, bidirectional=True, batch_first=True)
        self.classify = nn.Linear(2 * hidden, 2)

    def forward(self, padded, lengths):
        packed = pack_padded_sequence(self.embedding(padded), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.classify(torch.cat([h[0], h[1]], dim=1))


def make(n):
    data = []
    for _ in range(n):
        s = torch.randint(1, 7, (int(torch.randint(3, 15, ())),))
        data.append((s, int(s[0] == s[-1])))
        if data[-1][1] == 0 and torch.rand(()) < 0.6:
            s[-1] = s[0]
            data[-1] = (s, 1)
    return data


def collate(items):
    seqs, y = zip(*items)
    return pad_sequence(seqs, batch_first=True), torch.tensor([len(s) for s in seqs]), torch.tensor(y)


def run():
    torch.manual_seed(44)
    train, valid = make(500), make(150)
    model = Tagger(7)
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(10):
        model.train()
        loss_sum = 0.0
        order = torch.randperm(len(train)).tolist()
        for i in range(0, len(order), 32):
            x, n, y = collate([train[j] for j in order[i:i + 32]])
            opt.zero_grad()
            loss = criterion(model(x, n), y)
            loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), 1.0)
            opt.step()
            loss_sum += loss.item() * len(y)
        model.eval()
        with torch.no_grad():
            x, n, y = collate(valid)
            acc = (model(x, n).argmax(1) == y).float().mean()
        print(f"epoch {epoch + 1} train loss {loss_sum / len(train):.4f} valid acc {acc:.3f}")


run()
