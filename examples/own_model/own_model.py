"""A next-scale model as someone may have it: it knows nothing of guidance. Its weights are random."""

import torch


def draw(logits, generator):
    drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator)
    return drawn.view(logits.shape[:2])


class OwnModel(torch.nn.Module):
    def __init__(self, vocabulary=64, channels=32):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, channels)
        self.position = torch.nn.Embedding(256, channels)
        self.head = torch.nn.Linear(channels, vocabulary)

    def predict(self, state, tokens):
        hidden = torch.sin(state[:, None] + 3 * self.position.weight[:tokens])
        return 4 * self.head(hidden)

    @torch.no_grad()
    def generate(self, batch, sides=(1, 2, 3, 4), cfg=2.0, seed=0):
        """The tokens of all scales, (batch, 1 + 4 + 9 + 16)."""
        generator = torch.Generator().manual_seed(seed)
        state = torch.randn(2 * batch, self.embedding.embedding_dim, generator=generator)
        chosen = []
        for n in sides:
            cond, uncond = self.predict(state, n * n).chunk(2)
            tokens = draw(uncond + cfg * (cond - uncond), generator)
            state = state + self.embedding(tokens).mean(1).repeat(2, 1)
            chosen.append(tokens)
        return torch.cat(chosen, 1)
