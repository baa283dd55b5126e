"""A linear layer and its NoRA update as one autograd function, for training on a frozen base.

    y = x W' + b + (x down') product,   with product = scale * core' up'

The product is formed for all layers at once (`products`), so that a layer is two thin products
beside the base's own. Only `x down'`, outer_rank wide, is kept for the backward pass: neither the
layer's input nor its output. With an untouched adapter the product is zero, and so is the update.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class ProductLinear(torch.autograd.Function):
    """`x weight' + bias + (x down') product`; weight, bias and down are frozen.

    The tensors have one dtype; the input may have another.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (..., in_features)
        weight: Tensor,  # (out_features, in_features)
        bias: Tensor | None,  # (out_features,)
        down: Tensor,  # (outer_rank, in_features)
        product: Tensor,  # (outer_rank, out_features)
    ) -> Tensor:
        """Return the layer's output: (..., out_features)."""
        tokens = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        hidden = tokens @ down.T  # (tokens, outer_rank)
        result = F.linear(tokens, weight, bias).addmm_(hidden, product)
        ctx.save_for_backward(hidden, weight, down, product)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and the product; None for what is frozen."""
        hidden, weight, down, product = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0])
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = (gradient @ weight).addmm_(gradient @ product.T, down)
            gradient_x = gradient_x.view(ctx.shape).to(ctx.dtype)
        return gradient_x, None, None, None, hidden.T @ gradient


class ProductLinears(torch.autograd.Function):
    """Several layers of one shape and input, such as q, k and v, as one `ProductLinear`.

    Their weights are stacked along the outputs, their `down` along the outer ranks. One large
    product may round differently from several small ones.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (..., in_features)
        weight: Tensor,  # (layers * out_features, in_features)
        bias: Tensor | None,  # (layers * out_features,)
        down: Tensor,  # (layers * outer_rank, in_features)
        products: Tensor,  # (layers, outer_rank, out_features)
    ) -> Tensor:
        """Return the layers' outputs side by side: (..., layers * out_features)."""
        layers, outer_rank, out_features = products.shape
        tokens = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        hidden = tokens @ down.T
        result = F.linear(tokens, weight, bias)
        by_layer = result.view(-1, layers, out_features).transpose(0, 1)
        by_layer.baddbmm_(hidden.view(-1, layers, outer_rank).transpose(0, 1), products)
        ctx.save_for_backward(hidden, weight, down, products)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and the products; None for what is frozen."""
        hidden, weight, down, products = ctx.saved_tensors
        layers, outer_rank, out_features = products.shape
        gradient = gradients[0].reshape(-1, layers * out_features)
        by_layer = gradient.view(-1, layers, out_features).transpose(0, 1)
        hidden = hidden.view(-1, layers, outer_rank).transpose(0, 1)  # (layers, tokens, outer_rank)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_hidden = torch.bmm(by_layer, products.mT).transpose(0, 1)
            gradient_hidden = gradient_hidden.reshape(-1, layers * outer_rank)
            gradient_x = (gradient @ weight).addmm_(gradient_hidden, down)
            gradient_x = gradient_x.view(ctx.shape).to(ctx.dtype)
        return gradient_x, None, None, None, torch.bmm(hidden.mT, by_layer)


class AddProduct(torch.autograd.Function):
    """`result + (x down') product`, where the base is no plain linear layer or there is dropout.

    The tensors have one dtype; the input may have another.
    """

    @staticmethod
    def forward(
        ctx: Any,
        result: Tensor,  # (..., out_features): the base layer's output
        x: Tensor,  # (..., in_features)
        down: Tensor,  # (outer_rank, in_features)
        product: Tensor,  # (outer_rank, out_features)
    ) -> Tensor:
        """Return the base's output with the update added."""
        hidden = x.reshape(-1, x.shape[-1]).to(down.dtype) @ down.T  # (tokens, outer_rank)
        ctx.save_for_backward(hidden, down, product)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        rows = result.reshape(-1, result.shape[-1])
        return torch.addmm(rows, hidden, product).view(result.shape)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the base's output, the input and the product."""
        hidden, down, product = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, product.shape[1])
        gradient_x = None
        if ctx.needs_input_grad[1]:
            gradient_x = ((gradient @ product.T) @ down).view(ctx.shape).to(ctx.dtype)
        return gradients[0], gradient_x, None, hidden.T @ gradient
