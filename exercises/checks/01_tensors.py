"""What the exercises for chapter 01 must do. check.py gives each function the learner's function of the same name."""

import torch


def check_stable_softmax(f):
    torch.manual_seed(0)
    for shape in ((5,), (3, 4), (2, 3, 4)):
        logits = torch.randn(shape)
        answer = f(logits)
        assert torch.is_tensor(answer) and answer.shape == shape, "The result must be a tensor of the logits' shape."
        assert torch.allclose(answer, logits.softmax(-1)), "For ordinary logits the probabilities are not right."
    large = torch.tensor([[1000.0, 999.0], [-1000.0, -1000.0]])
    assert f(large).isfinite().all(), "For large logits the result is not a finite number."
    assert torch.allclose(f(large), large.softmax(-1)), "For large logits the probabilities are not right."
