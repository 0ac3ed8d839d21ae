"""The window's item count is taken before the forwards and multiplied out of Accelerator's own division, so that every token of a window counts alike."""
import math
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

torch.set_num_threads(1)


class TinyLM(torch.nn.Module):
    def __init__(self, vocab=16, d=32):
        super().__init__()
        self.emb = torch.nn.Embedding(vocab, d, padding_idx=0)
        self.rnn = torch.nn.LSTM(d, d, batch_first=True)
        self.out = torch.nn.Linear(d, vocab)

    def forward(self, ids):
        return self.out(self.rnn(self.emb(ids))[0])


def collate(rows):
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids[:, :-1], ids[:, 1:]


def main():
    set_seed(12)
    steps_per_window, epochs = 3, 6
    accelerator = Accelerator(gradient_accumulation_steps=steps_per_window, cpu=True)
    rows = []
    for _ in range(264):
        n, first, jump = torch.randint(4, 14, ()).item(), torch.randint(15, ()).item(), torch.randint(1, 4, ()).item()
        rows.append((first + jump * torch.arange(n)) % 15 + 1)
    model = TinyLM()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, opt, loader = accelerator.prepare(model, opt, DataLoader(rows, batch_size=12, shuffle=True, collate_fn=collate))

    for epoch in range(epochs):
        it, nats, count = iter(loader), 0.0, 0
        for _ in range(math.ceil(len(loader) / steps_per_window)):
            window = []
            for _ in range(steps_per_window):
                try:
                    window.append(next(it))
                except StopIteration:
                    break
            n_items = sum((target != 0).sum() for _, target in window)
            for ids, target in window:
                with accelerator.accumulate(model):
                    total = cross_entropy(model(ids).flatten(0, 1), target.flatten(), ignore_index=0, reduction="sum")
                    accelerator.backward(total * accelerator.gradient_accumulation_steps / n_items)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    opt.step()
                    opt.zero_grad()
                nats += total.item()
            count += n_items.item()
        accelerator.print(f"epoch {epoch}: {nats / count:.4f} nats per token over {count} tokens")


if __name__ == "__main__":
    main()
