"""Adam with L2 regularisation: the decay goes into the gradient, and so through the moments.

Source: Kingma, Ba, "Adam" (ICLR 2015), algorithm 1, with g = gradient + decay w, the gradient of
loss + decay/2 |w|^2.

This is the line of algorithm 2 in Loshchilov, Hutter (ICLR 2019) that AdamW strikes out. The
difference: here the decay is divided by sqrt(v^) like everything in g, so that weights with large
gradients are decayed less. In `AdamW` all weights are decayed alike. With weight_decay = 0 the two
are the same.
"""

from minillm.optim.adamw import AdamW


class Adam(AdamW):
    """As AdamW, but weight decay is an L2 penalty: added to the gradient before the moments."""

    decoupled = False
    elementwise = True
