"""What the tests of training/ share: everything here may use PyTorch."""

import torch

torch.set_num_threads(1)
