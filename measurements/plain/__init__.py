"""The same work as straightforward PyTorch: what the product's speed is compared with.

Images one by one through PIL and torchvision, a DataLoader, float32, contiguous NCHW, no product
code but the network. Each file has a `plain_step`: one batch of one method, in place,

    plain_step(model, images, labels, ...)

model: a network of images in [0, 1], on their device. images: float32 (B, C, H, W) in [0, 1].
labels: int64 (B,). The comments count what a step costs in forward passes of the network; a
backward pass is two, one for the weights' gradients and one for the inputs'.
"""
