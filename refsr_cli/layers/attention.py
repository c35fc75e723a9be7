"""Non-local block: every place looks at all places. Wang et al., "Non-local Neural Networks", CVPR 2018."""

import torch.nn.functional as F
from torch import Tensor, nn


class NonLocal(nn.Module):
    """Embedded Gaussian with half the channels; keys and values are pooled by `pool`. At first it changes nothing.

    (N, F, H, W) -> same
    """

    def __init__(self, features: int, pool: int = 1) -> None:
        super().__init__()
        inner = features // 2
        self.theta = nn.Conv2d(features, inner, 1)
        self.phi = nn.Conv2d(features, inner, 1)
        self.g = nn.Conv2d(features, inner, 1)
        self.out = nn.Conv2d(inner, features, 1)
        self.pool = pool
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = F.max_pool2d(x, self.pool, ceil_mode=True) if self.pool > 1 else x
        query, key, value = self.theta(x), self.phi(seen), self.g(seen)
        query_rows, key_rows, value_rows = (part.flatten(2).transpose(1, 2) for part in (query, key, value))
        looked = F.scaled_dot_product_attention(query_rows, key_rows, value_rows, scale=1.0)
        answer: Tensor = x + self.out(looked.transpose(1, 2).reshape(query.shape))
        return answer
