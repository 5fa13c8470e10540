"""The scalar head by hand."""

import torch

from thumbs.models.heads import ScalarHead


def test_a_value_is_a_product_and_a_bias():
    head = ScalarHead(3)
    hidden = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.0]])
    assert head(hidden).tolist() == [0, 0]
    head.weight.data, head.bias.data = torch.tensor([1.0, -1.0, 0.5]), torch.tensor(0.25)
    assert head(hidden.bfloat16()).tolist() == [0.75, 1.25]
    assert head(hidden.bfloat16()).dtype == torch.float32
