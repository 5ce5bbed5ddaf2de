"""Muon, the optimizer of chapter 05 for the matrices inside the blocks.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
"""

import torch

# A polynomial a x + b x³ + c x⁵ for each step. The first one brings all numbers from 0.01 to 1 as near to 1 as such a
# polynomial can, and each later one does this with the results of the one before: they end between 0.72 and 1.28.
# (Found by linear programming. The method is that of Polar Express, Amsel et al. 2025, arXiv:2505.16932.)
POLYNOMIALS = (8.0934, -23.6205, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)


def orthogonalize(matrices, dtype):
    """Return the nearest (semi-)orthogonal matrix to each of `matrices` (N, m, n), approximately.

    A matrix stretches space by a different factor, its singular value, in each of several directions. This function
    brings all factors near 1 and keeps the directions, with three Newton-Schulz steps (Jordan et al. 2024): POLYNOMIALS
    of the matrix, which change its factors and not its directions. They need only matrix products, which are fast, and
    they process all N matrices together.
    """
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # now no factor is above 1
    x = by_small_products(x) if dtype == torch.float32 else by_steps(x)
    return (x.mT if tall else x).to(matrices.dtype)


def by_steps(x):
    """The Newton-Schulz steps for matrices x (N, m, n), one after the other."""
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT  # (N, m, m)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram²
        x = torch.baddbmm(x, gram, x, beta=a)  # a x + gram x
    return x


def by_small_products(x):
    """The same with fewer multiplications: seven tenths as many for the four matrices of a block.

    Each step multiplies x from the left by a polynomial of its Gram matrix (N, m, m). These polynomials are small, so
    we multiply the three of them first, and then x once. Only in float32: in 16 bits, rounding errors are too large.
    """
    def polynomial(gram, a, b, c):
        result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        result.diagonal(dim1=1, dim2=2).add_(a)
        return result

    gram = x @ x.mT
    product = factor = polynomial(gram, *POLYNOMIALS[0])
    for coefficients in POLYNOMIALS[1:]:
        gram = factor @ gram @ factor  # of the next x, which is factor @ x
        factor = polynomial(gram, *coefficients)
        product = factor @ product
    return product @ x


class Muon(torch.optim.Optimizer):
    """Gradient descent with momentum, whose step for each matrix is made orthogonal (Jordan et al. 2024).

    The gradient of a matrix is usually dominated by a few directions, so plain descent learns little in the others.
    An orthogonal step moves equally far in all of them. torch.optim.Muon does the same one matrix at a time and in
    bfloat16, which is slow on a CPU that has no instructions for it.

    params: matrices; lr: the learning rate; momentum: the decay factor of the running average of gradients; dtype: the
    number format of the matrix products.
    """

    orthogonalize = staticmethod(orthogonalize)

    def __init__(self, params, lr, momentum, weight_decay=0.0, dtype=torch.float32):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):  # PyTorch's schedulers pass a closure; none is needed here
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                grads = [p.grad for p in params]
                buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov: look one step ahead
                update = self.orthogonalize(torch.stack(ahead), self.dtype)
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                scale = max(1, shape[0] / shape[1]) ** 0.5  # the same change of the output for every shape
                torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * scale)
