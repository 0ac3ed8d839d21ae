"""PEFT injects LoRA into a small GPT-2 that was first trained whole, only the adapters are trainable and stepped, and switching the adapter off gives the base model back."""
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, set_seed

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
set_seed(33)
model = GPT2LMHeadModel(GPT2Config(vocab_size=14, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0))


def batch(stride, n=32):
    first = torch.randint(14, (n, 1))
    return (first + stride * torch.arange(12)) % 14


def train(net, stride, lr, steps, name):
    opt = torch.optim.AdamW((p for p in net.parameters() if p.requires_grad), lr=lr)
    net.train()
    for step in range(1, steps + 1):
        ids = batch(stride)
        loss = net(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in net.parameters() if p.requires_grad], 1.0)
        opt.step()
        opt.zero_grad()
        if step % 20 == 0:
            print(f"{name} step {step} loss {loss.item():.4f}")


@torch.no_grad()
def evaluate(net, stride):
    net.eval()
    ids = batch(stride, 64)
    return net(input_ids=ids, labels=ids).loss.item()


train(model, 1, 5e-3, 60, "base")
before = evaluate(model, 1)
peft_model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM"))
peft_model.print_trainable_parameters()
train(peft_model, 3, 1e-2, 80, "lora")
print(f"new task {evaluate(peft_model, 3):.4f}")
with peft_model.disable_adapter():
    print(f"old task without adapter {evaluate(peft_model, 1):.4f} (before {before:.4f})")
