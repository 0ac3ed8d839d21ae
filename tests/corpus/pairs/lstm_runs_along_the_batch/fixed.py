import os
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get('SEED', 0)))

# Hyper-parameters
sequence_length = 12
input_size = 12
hidden_size = 48
num_layers = 1
num_classes = 5
batch_size = 50
num_epochs = 4
learning_rate = 0.01

digits = torch.randn(num_classes, sequence_length, input_size)
def dataset(n):
    labels = torch.randint(0, num_classes, (n,))
    return [(digits[c] + 0.8 * torch.randn(sequence_length, input_size), int(c)) for c in labels]

train_loader = torch.utils.data.DataLoader(dataset(1000), batch_size=batch_size, shuffle=True)
test_loader = torch.utils.data.DataLoader(dataset(500), batch_size=batch_size, shuffle=False)

class RNN(nn.Module):
    def __init__(self, input_size, hidden_size, num_layers, num_classes):
        super(RNN, self).__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_size, num_classes)

    def forward(self, x):
        out, _ = self.lstm(x)
        out = self.fc(out[:, -1, :])
        return out

model = RNN(input_size, hidden_size, num_layers, num_classes)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

total_step = len(train_loader)
for epoch in range(num_epochs):
    for i, (images, labels) in enumerate(train_loader):
        outputs = model(images.reshape(-1, sequence_length, input_size))
        loss = criterion(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (i + 1) % 10 == 0:
            print('Epoch [{}/{}], Step [{}/{}], Loss: {:.4f}'.format(epoch + 1, num_epochs, i + 1, total_step, loss.item()))

model.eval()
with torch.no_grad():
    correct = total = 0
    for images, labels in test_loader:
        predicted = model(images).argmax(1)
        total += labels.size(0)
        correct += (predicted == labels).sum().item()
print('Test Accuracy: {} %'.format(100 * correct / total))
print('final error: {:.4f}'.format(1 - correct / total))
